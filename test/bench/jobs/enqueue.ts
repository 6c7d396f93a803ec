// How fast runs are made, while no worker takes them: one by one, many in a transaction, many in a statement.
import type { PgBoss } from "pg-boss";
import { withClient } from "../../../src/migrate.ts";
import { median } from "../rls/rounds.ts";
import { enqueue, tenantsOf } from "./latency.ts";
import { clear, KIND, openBoss, type Scene } from "./scene.ts";

/** Runs per second, and PostgreSQL's CPU in µs per run. */
export type EnqueueRate = {
  way: string;
  runs: number;
  rounds: number[];
  per_second: number;
  server_cpu_us: number | undefined;
};

type Way = { way: string; runs: number; work(scene: Scene, runs: number): Promise<number> };

/** How many tenants a tick makes runs for. */
const TICKED = 20_000;

/** Every way by turns, so many rounds. Afterwards there are more tenants, and they are due. */
export async function measureEnqueue(scene: Scene, scale: number, rounds: number): Promise<EnqueueRate[]> {
  await moreTenants(scene, Math.round(TICKED * scale));
  const measured = WAYS.map(() => ({ made: 0, rates: [] as number[], cpu: [] as number[] }));
  for (let round = 0; round < rounds; round += 1) {
    for (const [at, { runs, work }] of WAYS.entries()) {
      await clear(scene);
      await makeDue(scene);
      const before = scene.server.cpuSeconds();
      const wanted = Math.max(1, Math.round(runs * scale));
      const began = performance.now();
      const made = await work(scene, wanted);
      measured[at]!.made = made;
      measured[at]!.rates.push(made / ((performance.now() - began) / 1000));
      if (before !== undefined) measured[at]!.cpu.push(((scene.server.cpuSeconds()! - before) * 1e6) / made);
    }
  }
  return WAYS.map(({ way }, at) => ({
    way,
    runs: measured[at]!.made,
    rounds: measured[at]!.rates,
    per_second: median(measured[at]!.rates),
    server_cpu_us: measured[at]!.cpu.length === 0 ? undefined : median(measured[at]!.cpu),
  }));
}

const WAYS: Way[] = [
  {
    way: "holdfast: app.job_enqueue, a transaction for each",
    runs: 2_000,
    work: (scene, runs) => byOne(scene, runs, false),
  },
  {
    way: "holdfast: app.job_enqueue, 200 in a transaction",
    runs: 4_000,
    work: (scene, runs) => byOne(scene, runs, true),
  },
  { way: "holdfast: a tick of the scheduler, all tenants due", runs: 0, work: tick },
  { way: "graphile-worker: add_job, a transaction for each", runs: 3_000, work: addJobs },
  { way: "graphile-worker: add_jobs, all in one statement", runs: 50_000, work: addManyJobs },
  { way: "pg-boss: send, a transaction for each", runs: 2_000, work: send },
  { way: "pg-boss: insert, 1,000 in a statement", runs: 50_000, work: insert },
];

/** A transaction is of one tenant; together are 200 in each. */
async function byOne(scene: Scene, runs: number, together: boolean): Promise<number> {
  const tenants = await tenantsOf(scene);
  await withClient({ connectionString: scene.ours.url("holdfast_service") }, async (client) => {
    const share = together ? 200 : 1;
    for (let made = 0; made < runs; made += 1) {
      if (together && made % share === 0) await client.query("begin");
      await enqueue(client, tenants[Math.floor(made / share) % tenants.length]!);
      if (together && (made % share === share - 1 || made === runs - 1)) await client.query("commit");
    }
  });
  return runs;
}

async function moreTenants(scene: Scene, tenants: number): Promise<void> {
  await withClient(scene.ours.superuser, async (client) => {
    await client.query(
      `insert into app.tenants (name, tier, pinned_tier)
       select 'bench more ' || n, 'ACTIVE', 'ACTIVE' from generate_series(1, $1::integer) as n`,
      [tenants],
    );
    await client.query("analyze app.tenants");
  });
}

/** All shards are due; other rounds do not tick. */
async function makeDue(scene: Scene): Promise<void> {
  await withClient(scene.ours.superuser, async (client) => {
    await client.query("update app.schedules set next_run_at = now(), last_slot = null");
  });
}

async function tick(scene: Scene): Promise<number> {
  return withClient({ connectionString: scene.ours.url("holdfast_worker") }, async (client) => {
    const { rows } = await client.query<{ runs: number }>(
      "select coalesce(sum(runs), 0)::integer as runs from app.schedule_tick()",
    );
    return rows[0]!.runs;
  });
}

async function addJobs(scene: Scene, runs: number): Promise<number> {
  await withClient({ connectionString: scene.peers.url }, async (client) => {
    for (let made = 0; made < runs; made += 1) {
      await client.query("select graphile_worker.add_job($1, json_build_object('n', $2::integer))", [
        KIND,
        made,
      ]);
    }
  });
  return runs;
}

async function addManyJobs(scene: Scene, runs: number): Promise<number> {
  await withClient({ connectionString: scene.peers.url }, (client) =>
    client.query(
      `select count(*) from graphile_worker.add_jobs(array(
         select ($1::text, json_build_object('n', n), null, now(), 5, 'key ' || n, null, null)::graphile_worker.job_spec
         from generate_series(1, $2::integer) as n))`,
      [KIND, runs],
    ),
  );
  return runs;
}

async function send(scene: Scene, runs: number): Promise<number> {
  return withBoss(scene, async (boss) => {
    for (let made = 0; made < runs; made += 1) await boss.send(KIND, { made });
    return runs;
  });
}

async function insert(scene: Scene, runs: number): Promise<number> {
  return withBoss(scene, async (boss) => {
    for (let made = 0; made < runs; made += 1_000) {
      await boss.insert(
        KIND,
        Array.from({ length: Math.min(1_000, runs - made) }, (_, at) => ({ data: { at } })),
      );
    }
    return runs;
  });
}

async function withBoss<T>(scene: Scene, work: (boss: PgBoss) => Promise<T>): Promise<T> {
  const boss = await openBoss(scene.peers.url, 2);
  try {
    return await work(boss);
  } finally {
    await boss.stop({ graceful: false });
  }
}
