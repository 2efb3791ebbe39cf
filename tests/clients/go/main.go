// Drives a cluster through etcd's own Go client and its concurrency recipes, and fails at the first answer that a
// user of etcd would not expect. ENDPOINTS is a list of URLs; CACERT, CERT and KEY are files, for TLS.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
)

const patience = 60 * time.Second

func must(err error, what string) {
	if err != nil {
		log.Fatalf("%s: %v", what, err)
	}
}

func expect(ok bool, format string, args ...any) {
	if !ok {
		log.Fatalf(format, args...)
	}
}

func connect(endpoints ...string) *clientv3.Client {
	config := clientv3.Config{
		Endpoints:   endpoints,
		DialTimeout: patience,
	}
	if ca := os.Getenv("CACERT"); ca != "" {
		info := transport.TLSInfo{
			TrustedCAFile: ca, CertFile: os.Getenv("CERT"), KeyFile: os.Getenv("KEY"),
		}
		tls, err := info.ClientConfig()
		must(err, "TLS files")
		config.TLS = tls
	}
	client, err := clientv3.New(config)
	must(err, "connect")
	return client
}

func keysAndTransactions(ctx context.Context, c *clientv3.Client) {
	for n := range 20 {
		_, err := c.Put(ctx, fmt.Sprintf("go/keys/%02d", n), strings.Repeat("v", n))
		must(err, "put")
	}
	got, err := c.Get(ctx, "go/keys/", clientv3.WithPrefix(), clientv3.WithLimit(7),
		clientv3.WithSort(clientv3.SortByKey, clientv3.SortDescend))
	must(err, "get")
	expect(got.Count == 20 && len(got.Kvs) == 7 && got.More, "a page: %v", got)
	expect(string(got.Kvs[0].Key) == "go/keys/19", "the last key first: %s", got.Kvs[0].Key)

	txn, err := c.Txn(ctx).
		If(clientv3.Compare(clientv3.Value("go/keys/03"), "=", "vvv")).
		Then(clientv3.OpDelete("go/keys/03"), clientv3.OpPut("go/keys/new", "new")).
		Else(clientv3.OpGet("go/keys/03")).Commit()
	must(err, "txn")
	expect(txn.Succeeded && txn.Responses[0].GetResponseDeleteRange().Deleted == 1, "txn: %v", txn)

	deleted, err := c.Delete(ctx, "go/keys/", clientv3.WithPrefix(), clientv3.WithPrevKV())
	must(err, "delete")
	expect(deleted.Deleted == 20 && len(deleted.PrevKvs) == 20, "delete: %v", deleted)
	old, err := c.Get(ctx, "go/keys/", clientv3.WithPrefix(), clientv3.WithRev(got.Header.Revision))
	must(err, "get of the past")
	expect(old.Count == 20, "the past: %v", old)

	_, err = c.Compact(ctx, deleted.Header.Revision, clientv3.WithCompactPhysical())
	must(err, "compact")
	_, err = c.Get(ctx, "go/keys/", clientv3.WithPrefix(), clientv3.WithRev(got.Header.Revision))
	expect(errors.Is(err, rpctypes.ErrCompacted), "a compacted revision: %v", err)
}

func watches(ctx context.Context, c *clientv3.Client) {
	first, err := c.Put(ctx, "go/watch/a", "1")
	must(err, "put")
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel()
	events := c.Watch(ctx, "go/watch/", clientv3.WithPrefix(), clientv3.WithPrevKV(),
		clientv3.WithRev(first.Header.Revision))
	_, err = c.Put(ctx, "go/watch/a", "2")
	must(err, "put")
	_, err = c.Delete(ctx, "go/watch/a")
	must(err, "delete")
	var seen []string
	for len(seen) < 3 {
		response, ok := <-events
		expect(ok && response.Err() == nil, "watch ended: %v", response.Err())
		for _, event := range response.Events {
			text := event.Type.String()
			if event.PrevKv != nil {
				text += " after " + string(event.PrevKv.Value)
			}
			seen = append(seen, text)
		}
	}
	expect(fmt.Sprint(seen) == "[PUT PUT after 1 DELETE after 2]", "events: %v", seen)
	must(c.RequestProgress(ctx), "progress")
	response := <-events
	expect(response.IsProgressNotify(), "a progress notification: %v", response)
}

func leases(ctx context.Context, c *clientv3.Client) {
	kept, err := c.Grant(ctx, 5)
	must(err, "grant")
	alive, err := c.KeepAlive(ctx, kept.ID)
	must(err, "keep alive")
	expect((<-alive).TTL == 5, "a renewed lease")
	left, err := c.Grant(ctx, 2)
	must(err, "grant")
	_, err = c.Put(ctx, "go/lease/kept", "", clientv3.WithLease(kept.ID))
	must(err, "put with a lease")
	gone, err := c.Put(ctx, "go/lease/left", "", clientv3.WithLease(left.ID))
	must(err, "put with a lease")
	watching, cancel := context.WithCancel(ctx)
	defer cancel()
	events := c.Watch(watching, "go/lease/left", clientv3.WithRev(gone.Header.Revision+1))
	event := (<-events).Events[0]
	expect(event.Type == clientv3.EventTypeDelete, "the end of a lease: %v", event)
	ttl, err := c.TimeToLive(ctx, kept.ID, clientv3.WithAttachedKeys())
	must(err, "time to live")
	expect(ttl.TTL > 0 && len(ttl.Keys) == 1, "a lease that is kept alive: %v", ttl)
	_, err = c.Revoke(ctx, kept.ID)
	must(err, "revoke")
	got, err := c.Get(ctx, "go/lease/", clientv3.WithPrefix())
	must(err, "get")
	expect(got.Count == 0, "keys without their leases: %v", got)
}

// Several sessions add to a counter without a transaction, each under the mutex.
func mutex(ctx context.Context, c *clientv3.Client) {
	const workers, rounds = 4, 5
	var group sync.WaitGroup
	for range workers {
		group.Go(func() {
			session, err := concurrency.NewSession(c, concurrency.WithTTL(10))
			must(err, "session")
			defer session.Close()
			lock := concurrency.NewMutex(session, "go/mutex")
			for range rounds {
				must(lock.Lock(ctx), "lock")
				count := 0
				got, err := c.Get(ctx, "go/counter")
				must(err, "get")
				if len(got.Kvs) == 1 {
					fmt.Sscan(string(got.Kvs[0].Value), &count)
				}
				_, err = c.Put(ctx, "go/counter", fmt.Sprint(count+1))
				must(err, "put")
				must(lock.Unlock(ctx), "unlock")
			}
		})
	}
	group.Wait()
	got, err := c.Get(ctx, "go/counter")
	must(err, "get")
	expect(string(got.Kvs[0].Value) == fmt.Sprint(workers*rounds), "counter: %s", got.Kvs[0].Value)
}

func election(ctx context.Context, c *clientv3.Client) {
	one, err := concurrency.NewSession(c)
	must(err, "session")
	two, err := concurrency.NewSession(c)
	must(err, "session")
	first, second := concurrency.NewElection(one, "go/election"), concurrency.NewElection(two, "go/election")
	must(first.Campaign(ctx, "first"), "campaign")
	won := make(chan error)
	go func() { won <- second.Campaign(ctx, "second") }()
	leader, err := second.Leader(ctx)
	must(err, "leader")
	expect(string(leader.Kvs[0].Value) == "first", "leader: %v", leader)
	must(first.Proclaim(ctx, "still first"), "proclaim")
	must(first.Resign(ctx), "resign")
	must(<-won, "the second campaign")
	leader, err = first.Leader(ctx)
	must(err, "leader")
	expect(string(leader.Kvs[0].Value) == "second", "leader: %v", leader)
	must(one.Close(), "close")
	must(two.Close(), "close")
	_, err = first.Leader(ctx)
	expect(errors.Is(err, concurrency.ErrElectionNoLeader), "no leader: %v", err)
}

// Money moves between accounts, by way of every member; its sum does not change.
func softwareTransactions(ctx context.Context, c *clientv3.Client) {
	const accounts, moves = 3, 10
	name := func(n int) string { return fmt.Sprintf("go/stm/%d", n%accounts) }
	for n := range accounts {
		_, err := c.Put(ctx, name(n), "100")
		must(err, "put")
	}
	var group sync.WaitGroup
	for worker, endpoint := range c.Endpoints() {
		group.Go(func() {
			// Later reads of an STM are serializable: at another member they could be of the future.
			c := connect(endpoint)
			defer c.Close()
			for n := range moves {
				move := func(stm concurrency.STM) error {
					var from, to int
					fmt.Sscan(stm.Get(name(worker+n)), &from)
					fmt.Sscan(stm.Get(name(worker+n+1)), &to)
					stm.Put(name(worker+n), fmt.Sprint(from-1))
					stm.Put(name(worker+n+1), fmt.Sprint(to+1))
					return nil
				}
				_, err := concurrency.NewSTM(c, move, concurrency.WithAbortContext(ctx))
				must(err, "STM")
			}
		})
	}
	group.Wait()
	got, err := c.Get(ctx, "go/stm/", clientv3.WithPrefix())
	must(err, "get")
	sum := 0
	for _, kv := range got.Kvs {
		var value int
		fmt.Sscan(string(kv.Value), &value)
		sum += value
	}
	expect(sum == 100*accounts, "sum of all accounts: %d", sum)
}

func members(ctx context.Context, c *clientv3.Client) {
	list, err := c.MemberList(ctx)
	must(err, "member list")
	leaders := map[uint64]bool{}
	for _, member := range list.Members {
		status, err := c.Status(ctx, member.ClientURLs[0])
		must(err, "status")
		leaders[status.Leader] = true
	}
	expect(len(leaders) == 1, "one leader: %v", leaders)
}

func main() {
	log.SetFlags(0)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	client := connect(strings.Split(os.Getenv("ENDPOINTS"), ",")...)
	defer client.Close()
	for _, part := range []struct {
		name string
		run  func(context.Context, *clientv3.Client)
	}{
		{"keys and transactions", keysAndTransactions},
		{"watches", watches},
		{"leases", leases},
		{"mutex", mutex},
		{"election", election},
		{"software transactions", softwareTransactions},
		{"members", members},
	} {
		part.run(ctx, client)
		fmt.Println("ok", part.name)
	}
}
