// The databases of the bench: ours with many tenants and a kind that does nothing, and one for the other queues.
import { randomUUID } from "node:crypto";
import { runMigrations } from "graphile-worker";
import type pg from "pg";
import { PgBoss } from "pg-boss";
import { withClient } from "../../../src/migrate.ts";
import { inDatabase, TEST_PASSWORD } from "../../support/constants.ts";
import type { BenchServer, Scratch } from "../server.ts";

/** The kind of our runs, the task of graphile-worker, the queue of pg-boss. */
export const KIND = "bench_noop";

/** Who claims for pgbench, and serves all kinds. */
export const BENCH_WORKER = "pgbench";

/** The most runs of one tenant that are admitted at once; see app_private.job_window. */
const WINDOW = 100;

/** Our migrated database, and the one of the other queues. */
export type Scene = {
  server: BenchServer;
  ours: Scratch;
  peers: { superuser: pg.ClientConfig; url: string };
  tenants: number;
  drop(): Promise<void>;
};

/** Makes both, with so many tenants. */
export async function makeScene(server: BenchServer, tenants: number): Promise<Scene> {
  const ours = await server.scratch();
  await withClient(ours.superuser, async (client) => {
    await client.query("set statement_timeout = 0");
    await client.query("update app.schedules set next_run_at = now() + interval '1 day'");
    await client.query(
      "insert into app.job_kinds (kind, description, tenant_enqueues) values ($1, 'Does nothing.', true)",
      [KIND],
    );
    await client.query(
      "insert into app.tenants (name, tier, pinned_tier) select 'bench ' || n, 'ACTIVE', 'ACTIVE' from generate_series(1, $1) as n",
      [tenants],
    );
    await client.query("create schema bench; grant usage on schema bench to holdfast_worker");
  });
  const peers = await makePeers(server, `${ours.database}_peers`);
  return { server, ours, peers, tenants, drop: peers.drop };
}

async function makePeers(server: BenchServer, name: string) {
  const login = name;
  const superuser = inDatabase(server.administrator, name);
  const url = `postgresql://${login}:${TEST_PASSWORD}@${server.host}:${server.port}/${name}`;
  const drop = () =>
    withClient(server.administrator, async (client) => {
      await client.query(`drop database if exists ${name} with (force)`);
      await client.query(`drop role if exists ${login}`);
    });
  try {
    await withClient(server.administrator, async (client) => {
      await client.query(`create role ${login} login password '${TEST_PASSWORD}'`);
      await client.query(`create database ${name} owner ${login}`);
    });
    await runMigrations({ connectionString: url });
    const boss = await openBoss(url, 2);
    await boss.createQueue(KIND);
    await boss.stop({ graceful: false });
  } catch (error) {
    await drop();
    throw error;
  }
  return { superuser, url, drop };
}

/** pg-boss as it is fastest: it looks every second how much is ready, and then fetches without a pause. */
export async function openBoss(url: string, connections: number): Promise<PgBoss> {
  const boss = new PgBoss({
    connectionString: url,
    max: connections,
    monitorIntervalSeconds: 1,
    queueCacheIntervalSeconds: 1,
    superviseIntervalSeconds: 1,
  });
  boss.on("error", (error) => console.error("pg-boss:", error.message));
  return boss.start();
}

/** Removes every run and token, and whoever still works on one. */
export async function clear(scene: Scene): Promise<void> {
  await withClient(scene.ours.superuser, async (client) => {
    await endOthers(client);
    await client.query(
      `truncate app.job_runs, app.job_run_events, app.job_slots, app.job_run_keys, app.job_gates, app.job_workers,
                app.events, graphile_worker._private_jobs restart identity`,
    );
  });
  await withClient(scene.peers.superuser, async (client) => {
    await endOthers(client);
    await client.query("truncate graphile_worker._private_jobs restart identity");
    await client.query("truncate pgboss.job");
  });
}

async function endOthers(client: pg.Client): Promise<void> {
  await client.query("set statement_timeout = 0");
  const others =
    "pid <> pg_backend_pid() and datname = current_database() and backend_type = 'client backend'";
  for (;;) {
    const { rowCount } = await client.query(
      `select pg_terminate_backend(pid) from pg_stat_activity where ${others}`,
    );
    if (rowCount === 0) return;
    await client.query("select pg_sleep(0.02)");
  }
}

/** Has the statistics of what is there now; a round starts with nothing to write but its own. */
export async function settle(superuser: pg.ClientConfig): Promise<void> {
  await withClient(superuser, async (client) => {
    await client.query("set statement_timeout = 0");
    await client.query("analyze");
    await client.query("checkpoint");
  });
}

/** Runs that wait, with their tokens; as many of each tenant, in an order of chance. */
export async function seedRuns(scene: Scene, wanted: number): Promise<number> {
  const perTenant = Math.min(WINDOW, Math.ceil(wanted / scene.tenants));
  return withClient(scene.ours.superuser, async (client) => {
    await client.query("set statement_timeout = 0");
    const { rows } = await client.query<{ runs: number }>(
      `with made as (
         insert into app.job_runs as r (tenant_id, kind, token_at, token_rank)
         select t.tenant_id, $1, now(), n
         from app.tenants as t, generate_series(0, $2::integer - 1) as n
         order by n, random()
         returning r.*
       ),
       queued as (
         select app_private.tokens_add(array_agg(app_private.token_of(m, 1))) as n from made as m
       )
       select count(*)::integer as runs, (select n from queued) as queued from made`,
      [KIND, perTenant],
    );
    return rows[0]!.runs;
  });
}

/** A backlog of one tenant: all parked, and then as many admitted as it may have at once. */
export async function seedBacklog(scene: Scene, runs: number): Promise<number> {
  return withClient(scene.ours.superuser, async (client) => {
    await client.query("set statement_timeout = 0");
    await client.query("set row_security = on");
    await client.query(
      `insert into app.job_runs (tenant_id, kind)
       select t.tenant_id, $1 from (select tenant_id from app.tenants limit 1) as t, generate_series(1, $2::integer)`,
      [KIND, runs],
    );
    await client.query("select app.job_admit()");
    return runs;
  });
}

/** What pgbench needs beside the queue: a worker of its own that lives, and a counter of its chunks. */
export async function admitPgbench(scene: Scene): Promise<void> {
  await withClient(scene.ours.superuser, async (client) => {
    await client.query("drop sequence if exists bench.chunks_ended; create sequence bench.chunks_ended");
    await client.query("grant usage on sequence bench.chunks_ended to holdfast_worker");
    await client.query(
      `insert into app.job_workers (worker, pool, host, pid, version, kinds, concurrency, running, seen_at)
       values ($1, $1, 'bench', 1, '0', array[$2], 1, 0, now() + interval '1 day')
       on conflict do nothing`,
      [BENCH_WORKER, KIND],
    );
  });
}

/** Bare tokens of graphile-worker. */
export async function seedTokens(scene: Scene, jobs: number): Promise<number> {
  await withClient({ connectionString: scene.peers.url }, async (client) => {
    await client.query(
      `select count(*) from graphile_worker.add_jobs(array(
         select ($1::text, json_build_object('n', n), null, now(), 5, null, null, null)::graphile_worker.job_spec
         from generate_series(1, $2::integer) as n))`,
      [KIND, jobs],
    );
  });
  return jobs;
}

/** Jobs of pg-boss, by its own bulk insert. */
export async function seedBoss(scene: Scene, jobs: number): Promise<number> {
  const boss = await openBoss(scene.peers.url, 2);
  try {
    for (let made = 0; made < jobs; made += 5_000) {
      const some = Array.from({ length: Math.min(5_000, jobs - made) }, () => ({
        data: { id: randomUUID() },
      }));
      await boss.insert(KIND, some);
    }
  } finally {
    await boss.stop({ graceful: false });
  }
  return jobs;
}
