// Drives a cluster through the Node client `etcd3`, and fails at the first answer that a user of etcd would not expect.
// ENDPOINTS is a list of URLs; CACERT, CERT and KEY are files, for TLS.
'use strict';

const assert = require('node:assert');
const fs = require('node:fs');
const { Etcd3 } = require('etcd3');

function connect() {
  const options = { hosts: process.env.ENDPOINTS.split(',') };
  if (process.env.CACERT) {
    options.credentials = {
      rootCertificate: fs.readFileSync(process.env.CACERT),
      certChain: fs.readFileSync(process.env.CERT),
      privateKey: fs.readFileSync(process.env.KEY),
    };
  }
  return new Etcd3(options);
}

async function keysAndTransactions(client) {
  for (let n = 0; n < 10; n++) await client.put(`node/keys/${n}`).value(`value ${n}`);
  assert.strictEqual(await client.get('node/keys/3').string(), 'value 3');
  const last = await client.getAll().prefix('node/keys/').sort('Key', 'Descend').limit(2).keys();
  assert.deepStrictEqual(last, ['node/keys/9', 'node/keys/8']);
  assert.strictEqual(await client.getAll().prefix('node/keys/').count(), 10);
  const answer = await client
    .if('node/keys/3', 'Value', '==', 'value 3')
    .then(client.put('node/keys/3').value('another'), client.get('node/keys/4'))
    .else(client.get('node/keys/3'))
    .commit();
  assert.strictEqual(answer.succeeded, true);
  assert.strictEqual(answer.responses[1].response_range.kvs[0].value.toString(), 'value 4');
  const deleted = await client.delete().prefix('node/keys/');
  assert.strictEqual(Number(deleted.deleted), 10);
  assert.strictEqual(await client.get('node/keys/3').string(), null);
}

async function watches(client) {
  const watcher = await client.watch().prefix('node/watch/').withPreviousKV().create();
  const seen = new Promise((resolve) => {
    const events = [];
    const note = (kind) => (now, before) => {
      events.push([kind, now.key.toString(), before ? before.value.toString() : null]);
      if (events.length === 3) resolve(events);
    };
    watcher.on('put', note('put'));
    watcher.on('delete', note('delete'));
  });
  await client.put('node/watch/a').value('1');
  await client.put('node/watch/a').value('2');
  await client.delete().key('node/watch/a');
  assert.deepStrictEqual(await seen, [
    ['put', 'node/watch/a', null],
    ['put', 'node/watch/a', '1'],
    ['delete', 'node/watch/a', '2'],
  ]);
  await watcher.cancel();
}

async function leases(client) {
  const lease = client.lease(5);
  await lease.put('node/lease').value('kept');
  await lease.keepaliveOnce();
  assert.strictEqual(await client.get('node/lease').string(), 'kept');
  await lease.revoke();
  assert.strictEqual(await client.get('node/lease').string(), null);
}

// Several workers add to a counter without a transaction, each under the lock.
async function locks(client) {
  await client.put('node/counter').value(0);
  const work = async () => {
    for (let n = 0; n < 5;) {
      const lock = client.lock('node/lock').ttl(10);
      try {
        await lock.acquire();
      } catch (error) {
        if (error.constructor.name !== 'EtcdLockFailedError') throw error;
        await new Promise((resolve) => setTimeout(resolve, 10));
        continue;
      }
      const count = await client.get('node/counter').number();
      await client.put('node/counter').value(count + 1);
      await lock.release();
      n++;
    }
  };
  await Promise.all([work(), work(), work()]);
  assert.strictEqual(await client.get('node/counter').number(), 15);
}

async function elections(client) {
  const election = client.election('node/election', 5);
  const campaign = election.campaign('first');
  await new Promise((resolve, reject) => {
    campaign.on('elected', resolve);
    campaign.on('error', reject);
  });
  assert.strictEqual(await election.leader(), 'first');
  await campaign.proclaim('still first');
  assert.strictEqual(await election.leader(), 'still first');
  await campaign.resign();
  assert.strictEqual(await election.leader(), undefined);
}

async function main() {
  const client = connect();
  for (const part of [keysAndTransactions, watches, leases, locks, elections]) {
    await part(client);
    console.log('ok', part.name);
  }
  client.close();
}

const tooLong = setTimeout(() => {
  console.error('it takes too long');
  process.exit(1);
}, 60_000);
main().then(
  () => clearTimeout(tooLong),
  (error) => {
    console.error(error);
    process.exit(1);
  },
);
