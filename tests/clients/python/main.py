"""Drives a cluster through the Python client `etcd3`, and fails at the first answer that a user of etcd would not expect.

ENDPOINTS is a list of URLs; CACERT, CERT and KEY are files, for TLS.
"""

import os
import threading
import time
from urllib.parse import urlparse

import etcd3


def connect(url):
    address = urlparse(url)
    return etcd3.client(
        host=address.hostname,
        port=address.port,
        timeout=60,
        ca_cert=os.environ.get("CACERT"),
        cert_cert=os.environ.get("CERT"),
        cert_key=os.environ.get("KEY"),
    )


def expect(ok, what):
    if not ok:
        raise SystemExit(f"not as expected: {what!r}")


def keys_and_transactions(clients):
    one, other = clients[0], clients[-1]
    for n in range(10):
        one.put(f"py/keys/{n}", f"value {n}")
    value, meta = other.get("py/keys/3")
    expect(value == b"value 3" and meta.version == 1, (value, meta))
    found = [meta.key for _, meta in other.get_prefix("py/keys/", sort_order="descend")]
    expect(len(found) == 10 and found[0] == b"py/keys/9", found)
    expect(one.replace("py/keys/3", "value 3", "another"), "replace of what is there")
    expect(not one.replace("py/keys/3", "value 3", "a third"), "replace of what is not there")
    done, answers = other.transaction(
        compare=[other.transactions.version("py/keys/3") == 2],
        success=[other.transactions.get("py/keys/3"), other.transactions.delete("py/keys/4")],
        failure=[],
    )
    expect(done and answers[0][0][0] == b"another", (done, answers))
    expect(one.get("py/keys/4") == (None, None), "a deleted key")
    one.delete_prefix("py/keys/")
    expect(list(other.get_prefix("py/keys/")) == [], "keys after they were deleted")


def watches(clients):
    one, other = clients[0], clients[-1]
    events, cancel = other.watch_prefix("py/watch/")
    one.put("py/watch/a", "1")
    one.delete("py/watch/a")
    kinds = [type(next(events)).__name__ for _ in range(2)]
    cancel()
    expect(kinds == ["PutEvent", "DeleteEvent"], kinds)


def leases(clients):
    one, other = clients[0], clients[-1]
    lease = one.lease(2)
    kept = one.lease(5)
    one.put("py/lease/left", "", lease)
    one.put("py/lease/kept", "", kept)
    deadline = time.monotonic() + 60
    while other.get("py/lease/left")[1] is not None:
        expect(time.monotonic() < deadline, "a lease that never ends")
        kept.refresh()
        time.sleep(0.1)
    expect(other.get("py/lease/kept")[1] is not None, "a lease that is renewed")
    expect(kept.remaining_ttl > 0, kept.remaining_ttl)
    kept.revoke()
    expect(other.get("py/lease/kept")[1] is None, "a key whose lease was revoked")


def locks(clients):
    """Several threads add to a counter without a transaction, each under the lock."""
    clients[0].put("py/counter", "0")

    def work(client):
        for _ in range(5):
            with client.lock("py", ttl=10):
                value, _ = client.get("py/counter")
                client.put("py/counter", str(int(value) + 1))

    threads = [threading.Thread(target=work, args=(client,)) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    value, _ = clients[0].get("py/counter")
    expect(int(value) == 5 * len(clients), value)


def members(clients):
    expect(len(list(clients[0].members)) == len(clients), "as many members as endpoints")
    leaders = {client.status().leader.id for client in clients}
    expect(len(leaders) == 1, leaders)


clients = [connect(url) for url in os.environ["ENDPOINTS"].split(",")]
for part in (keys_and_transactions, watches, leases, locks, members):
    part(clients)
    print("ok", part.__name__)
