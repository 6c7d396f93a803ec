// Both sides: the ticks of several schedulers, and the bare insert of the rows that they make.
import { setTimeout as sleep } from "node:timers/promises";
import pg from "pg";
import { withClient } from "../../../src/migrate.ts";
import type { BenchServer, Scratch } from "../server.ts";
import { FILLED, nameOf } from "./scene.ts";

/** Where a round runs, and with how many connections. */
export type Setting = {
  server: BenchServer;
  scratch: Scratch;
  tenants: number;
  schedulers: number;
  maxRuns: number;
};

/** What one round did; CPU is that of PostgreSQL, in s. */
export type Round = {
  seconds: number;
  cpu: number | undefined;
  runs: number;
  /** Transactions that made something, and the longest. */
  ticks: number;
  longest: number;
  deadlocks: number;
  /** Runs beyond one per tenant, kind and slot. */
  duplicates: number;
  /** Tenants without a run, and runs without a token or an event. */
  missing: number;
};

/** Calls app.schedule_tick with so many connections until nothing is due. */
export async function runTicks(setting: Setting): Promise<Round> {
  let asking: Promise<boolean> | undefined;
  return measured(setting, setting.scratch.url("holdfast_worker"), async (client, watcher, transactions) => {
    // One connection watches for all.
    const isDue = () => {
      asking ??= anyDue(watcher).finally(() => {
        asking = undefined;
      });
      return asking;
    };
    // A tick of the worker may take a minute.
    await client.query("set statement_timeout = '10min'");
    for (;;) {
      const began = performance.now();
      const { rows } = await client.query<{ shards: number }>(
        "select coalesce(sum(shards), 0)::integer as shards from app.schedule_tick($1)",
        [setting.maxRuns],
      );
      if (rows[0]!.shards > 0) transactions.push((performance.now() - began) / 1000);
      // What is due may be under another's lock.
      else if (await isDue()) await sleep(10);
      else return;
    }
  });
}

/**
 * Inserts the rows that ticks have made, in transactions of as many runs. Into the same tables, with every index and
 * check of theirs; as a replica does, so that no trigger fires, no foreign key is looked up, and as a superuser,
 * whom no policy binds. So whatever the scheduler does to find, lock, derive, audit and verify its rows is above it.
 */
export async function runFloor(setting: Setting): Promise<Round> {
  const shares = Math.ceil(setting.tenants / setting.maxRuns);
  let next = 0;
  return measured(setting, undefined, async (client, _watcher, transactions) => {
    await client.query("set statement_timeout = 0; set session_replication_role = replica");
    while (next < shares) {
      const share = next++;
      const began = performance.now();
      await client.query("begin");
      for (const [table, columns] of Object.entries(FILLED)) {
        await client.query(
          `insert into ${table} (${columns}) select ${columns} from bench.${nameOf(table)} where share = $1`,
          [share],
        );
      }
      await client.query("commit");
      transactions.push((performance.now() - began) / 1000);
    }
  });
}

type Work = (client: pg.Client, watcher: pg.Client, transactions: number[]) => Promise<void>;

/** Runs the work on all connections at once; they are open before the clock starts. */
async function measured(setting: Setting, url: string | undefined, work: Work): Promise<Round> {
  const { server, scratch, schedulers } = setting;
  const address = url === undefined ? scratch.superuser : { connectionString: url };
  return withClient(scratch.superuser, async (watcher) => {
    await watcher.query("set statement_timeout = 0");
    const before = await deadlocks(watcher);
    const clients = Array.from({ length: schedulers }, () => new pg.Client(address));
    const transactions: number[] = [];
    let seconds: number;
    let cpu: number | undefined;
    try {
      await Promise.all(clients.map((client) => client.connect()));
      const cpuBefore = server.cpuSeconds();
      const began = performance.now();
      await Promise.all(clients.map((client) => work(client, watcher, transactions)));
      seconds = (performance.now() - began) / 1000;
      cpu = cpuBefore === undefined ? undefined : server.cpuSeconds()! - cpuBefore;
    } finally {
      await Promise.all(clients.map((client) => client.end()));
    }
    return {
      seconds,
      cpu,
      ticks: transactions.length,
      longest: Math.max(0, ...transactions),
      deadlocks: (await deadlocks(watcher)) - before,
      ...(await counted(watcher)),
    };
  });
}

async function anyDue(watcher: pg.Client): Promise<boolean> {
  const { rows } = await watcher.query<{ due: boolean }>(
    "select exists (select from app.schedules where next_run_at <= now()) as due",
  );
  return rows[0]!.due;
}

async function deadlocks(watcher: pg.Client): Promise<number> {
  // What a session that has just ended counted is there at once, but our picture of it may be old.
  await watcher.query("select pg_stat_clear_snapshot()");
  const { rows } = await watcher.query<{ deadlocks: number }>(
    "select deadlocks::integer from pg_stat_database where datname = current_database()",
  );
  return rows[0]!.deadlocks;
}

async function counted(watcher: pg.Client): Promise<Pick<Round, "runs" | "duplicates" | "missing">> {
  const { rows } = await watcher.query<{ runs: number; duplicates: number; missing: number }>(
    `select r.runs::integer, (r.runs - r.turns)::integer as duplicates,
            (abs(t.tenants - r.tenants) + abs(r.runs - q.tokens) + abs(r.runs - e.events))::integer as missing
     from (select count(*) as runs, count(distinct (tenant_id, kind, slot)) as turns,
                  count(distinct tenant_id) as tenants from app.job_runs) as r,
          (select count(*) as tenants from app.tenants) as t,
          (select count(*) as tokens from graphile_worker._private_jobs) as q,
          (select count(*) as events from app.job_run_events) as e`,
  );
  return rows[0]!;
}
