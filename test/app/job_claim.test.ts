// sql/app/job_claim.sql with job_gates_lock, job_judged, runs_wait and starts_take: many runs of many tenants in one call,
// each started once, and none that may not start.
import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { afterEach, beforeAll, describe, expect, test } from "vitest";
import { claimsOf, type Named } from "../support/claims.ts";
import { besides, collide } from "../support/contract.ts";
import { testDatabase } from "../support/database.ts";

const database = testDatabase();
const queue = claimsOf(database);
let tenantId = "";
let other = "";

beforeAll(async () => {
  ({ tenantId } = await database.addTenant());
  ({ tenantId: other } = await database.addTenant());
});

const idsOf = (claimed: { run_id?: string }[]) => claimed.map((row) => row.run_id).sort();
const statesOf = async (runs: Named[]) =>
  Promise.all(runs.map(async (run) => (await queue.row(run))["state"]));
const shuffled = <T>(list: T[]): T[] =>
  list
    .map((each) => ({ each, at: Math.random() }))
    .sort((a, b) => a.at - b.at)
    .map(({ each }) => each);

describe("it works", () => {
  test("runs of several tenants are running, with a lease of 20 s, and the worker learns what to do", async () => {
    const kind = await queue.kind({ timeoutSeconds: 42, maxRetries: 5 });
    const runs = [await queue.add(tenantId, kind), await queue.add(other, kind)];
    await queue.sql("update app.job_runs set input = '{\"a\": 1}', slot = 7 where id = $1", [runs[0]!.runId]);
    const claimed = await queue.claim(runs, "worker 7");
    expect(claimed).toHaveLength(2);
    expect(claimed.find((row) => row["run_id"] === runs[0]!.runId)).toMatchObject({
      tenant_id: tenantId,
      attempt: 1,
      kind,
      slot: "7",
      timeout_ms: 42_000,
      input: { a: 1 },
      max_attempts: 6,
      from_state: "PENDING",
    });
    expect(claimed.find((row) => row["run_id"] === runs[1]!.runId)).toMatchObject({
      tenant_id: other,
      slot: null,
      input: {},
    });
    for (const run of runs) {
      const row = await queue.row(run);
      const { lease_until: lease } = claimed.find((each) => each["run_id"] === run.runId)!;
      expect(row).toMatchObject({ state: "RUNNING", attempt: 1, worker: "worker 7", lease_until: lease });
      expect(lease.getTime() - row["started_at"].getTime()).toBe(20_000);
    }
    const events = await queue.sql(
      "select from_state, to_state, actor, attempt from app.job_run_events where run_id = $1 order by id",
      [runs[0]!.runId],
    );
    expect(events.at(-1)).toEqual({
      from_state: "PENDING",
      to_state: "RUNNING",
      actor: "worker 7",
      attempt: 1,
    });
  });

  test("a failed run is claimed again as its next attempt, once it is due", async () => {
    const kind = await queue.kind();
    const run = await queue.add(tenantId, kind);
    await queue.claim([run]);
    await queue.fail(run, "llm_timeout");
    expect(await queue.claim([run])).toEqual([]);
    await queue.sql("update app.job_runs set available_at = clock_timestamp() where id = $1", [run.runId]);
    expect(await queue.claim([run])).toMatchObject([{ attempt: 2, from_state: "FAILED" }]);
  });

  test("a run that is not due yet is left", async () => {
    const kind = await queue.kind();
    const run = await queue.add(tenantId, kind, { seconds: 40 });
    expect(await queue.claim([run])).toEqual([]);
    expect(await queue.row(run)).toMatchObject({ state: "PENDING", attempt: 0 });
  });

  test("what an earlier attempt said of itself is gone", async () => {
    const run = await queue.add(tenantId, await queue.kind());
    await queue.sql("update app.job_runs set progress = 0.5, progress_text = 'half' where id = $1", [
      run.runId,
    ]);
    await queue.claim([run]);
    expect(await queue.row(run)).toMatchObject({ progress: null, progress_text: null });
  });

  test("nothing is asked for, and nothing is answered", async () => {
    expect(await queue.claim([])).toEqual([]);
  });
});

describe("it works once", () => {
  test("the second token of a run is stale, whatever became of it", async () => {
    const kind = await queue.kind();
    const [running, completed, dead] = [
      await queue.add(tenantId, kind),
      await queue.add(tenantId, kind),
      await queue.add(tenantId, kind),
    ];
    await queue.claim([running, completed, dead]);
    await queue.complete(completed);
    await queue.sql(
      "update app.job_runs set state = 'DEAD_LETTER', error_code = 'x', lease_until = null, finished_at = now() where id = $1",
      [dead.runId],
    );
    expect(await queue.claim([running, completed, dead], "w2")).toEqual([]);
    expect(await statesOf([running, completed, dead])).toEqual(["RUNNING", "COMPLETED", "DEAD_LETTER"]);
    expect(await queue.row(running)).toMatchObject({ attempt: 1, worker: "w1" });
  });

  test("a run that is not there, or is another tenant's, is not answered; the others are", async () => {
    const kind = await queue.kind();
    const run = await queue.add(tenantId, kind);
    const foreign = await queue.add(other, kind);
    const claimed = await queue.claim([
      { tenantId, runId: randomUUID() },
      { tenantId, runId: foreign.runId },
      { tenantId: randomUUID(), runId: run.runId },
      { tenantId: null as unknown as string, runId: run.runId },
      { tenantId, runId: null as unknown as string },
      run,
    ]);
    expect(idsOf(claimed)).toEqual([run.runId]);
    expect(await queue.row(foreign)).toMatchObject({ state: "PENDING", attempt: 0 });
  });

  test("a run that is named twice is one attempt, and takes one start", async () => {
    const kind = await queue.kind({ maxRunning: 2, ratePerMinute: 60, rateBurst: 2 });
    const [twice, once] = [await queue.add(tenantId, kind), await queue.add(tenantId, kind)];
    expect(await queue.claim([twice, twice, once, twice])).toHaveLength(2);
    for (const run of [twice, once])
      expect(await queue.row(run)).toMatchObject({
        state: "RUNNING",
        attempt: 1,
        token_at: expect.any(Date),
      });
    const [gate] = await queue.sql("select starts_left::float as left from app.job_gates where kind = $1", [
      kind,
    ]);
    expect(gate!["left"]).toBeCloseTo(0, 1);
  });

  test("of ten workers with the same tokens each run has one", async () => {
    const kind = await queue.kind({ maxRunning: 5 });
    const runs = await queue.addMany(tenantId, kind, 5);
    await queue.sql("insert into app.job_gates (tenant_id, kind) values ($1, $2)", [tenantId, kind]);
    const outcomes = await collide(
      database,
      { text: "select from app.job_gates where kind = $1", values: [kind] },
      Array.from({ length: 10 }, (_, n) => () => queue.claim(shuffled(runs), `w${n}`)),
    );
    const claimed = outcomes.flatMap((each) => (each.status === "fulfilled" ? each.value : [each.reason]));
    expect(idsOf(claimed)).toEqual(runs.map((run) => run.runId).sort());
  });

  test.each([
    ["with gates", { maxRunning: 1000 }],
    ["without gates", {}],
  ])("claimers that meet at overlapping batches in any order never deadlock, %s", async (_what, limits) => {
    const kinds = [await queue.kind(limits), await queue.kind(limits), await queue.kind(limits)];
    const tenants = [tenantId, other, (await database.addTenant()).tenantId];
    const runs: Named[] = [];
    for (const kind of kinds)
      for (const whose of tenants) runs.push(...(await queue.addMany(whose, kind, 30)));
    // The gates are new to them too: the first to come makes them.
    const batches = Array.from({ length: 60 }, () => shuffled(runs).slice(0, 40));
    const claimed: string[] = [];
    await Promise.all(
      Array.from({ length: 8 }, async (_, n) => {
        for (const batch of batches.filter((_each, index) => index % 8 === n)) {
          const list = n % 2 === 0 ? batch : [...batch].reverse();
          for (const row of await queue.claim(list, `w${n}`)) claimed.push(row["run_id"]);
        }
      }),
    );
    for (const row of await queue.claim(runs)) claimed.push(row["run_id"]);
    expect(claimed.sort()).toEqual(runs.map((run) => run.runId).sort());
    const [attempts] = await queue.sql(
      "select min(attempt)::int as low, max(attempt)::int as high from app.job_runs where kind = any ($1)",
      [kinds],
    );
    expect(attempts).toEqual({ low: 1, high: 1 });
  });
});

describe("never more of a tenant and kind than may run", () => {
  /** The most that ran at a time, from the audit trail. */
  const mostAtOnce = async (kind: string, whose: string): Promise<number> => {
    const [most] = await queue.sql(
      `select max(n)::int as n from (
         select sum(case when e.to_state = 'RUNNING' then 1 when e.from_state = 'RUNNING' then -1 else 0 end)
                  over (order by e.created_at, e.id) as n
         from app.job_run_events as e join app.job_runs as r on r.tenant_id = e.tenant_id and r.id = e.run_id
         where r.kind = $1 and r.tenant_id = $2) as x`,
      [kind, whose],
    );
    return most!["n"];
  };

  test("eight claimers, tokens fresh and stale, ends of every kind: the window holds, and is used", async () => {
    const kind = await queue.kind({ maxRunning: 3 });
    const rich = (await database.addTenant({ tier: "HIGH_VALUE" })).tenantId; // of weight 2
    const runs = [...(await queue.addMany(tenantId, kind, 40)), ...(await queue.addMany(rich, kind, 40))];
    const open = new Map(runs.map((run) => [run.runId, run]));
    const end = Date.now() + 60_000;
    await Promise.all(
      Array.from({ length: 8 }, async (_, n) => {
        while (open.size > 0 && Date.now() < end) {
          const claimed = await queue.claim(shuffled([...open.values()]).slice(0, 12), `w${n}`);
          await sleep(Math.random() * 10);
          for (const row of claimed) {
            const run = open.get(row["run_id"])!;
            if (row["attempt"] === 1 && Math.random() < 0.2) {
              await queue.fail(run, "shutdown");
            } else {
              await queue.complete(run, row["attempt"]);
              open.delete(run.runId);
            }
          }
          if (claimed.length === 0) await queue.admit();
        }
      }),
    );
    expect(open.size).toBe(0);
    expect(await mostAtOnce(kind, tenantId)).toBe(3);
    expect(await mostAtOnce(kind, rich)).toBe(6);
    expect((await queue.runs(kind)).every((row) => row["state"] === "COMPLETED")).toBe(true);
  });

  test("what has no place is parked: without a token, an attempt or a delay, until one ends", async () => {
    const kind = await queue.kind({ maxRunning: 2, ratePerMinute: 600, rateBurst: 2 });
    const runs = await queue.addMany(tenantId, kind, 6);
    const before = await Promise.all(runs.map((run) => queue.row(run)));
    expect(await queue.claim(runs)).toHaveLength(2);
    const parked = runs.slice(2);
    for (const [index, run] of parked.entries())
      expect(await queue.row(run)).toEqual({ ...before[index + 2], token_at: null });
    await queue.complete(runs[0]!);
    const admitted = (await queue.runs(kind)).filter((row) => row["state"] === "PENDING" && row["token_at"]);
    expect(admitted.map((row) => row["id"])).toEqual([parked[0]!.runId]);
  });

  test("one that is busy with itself is passed over, not waited for", async () => {
    const kind = await queue.kind();
    const [free, busy] = [await queue.add(tenantId, kind), await queue.add(tenantId, kind)];
    const list = `array['${tenantId}', '${tenantId}']::uuid[], array['${busy.runId}', '${free.runId}']::uuid[]`;
    const held = { text: "select from app.job_runs where id = $1", values: [busy.runId] };
    const text = `select run_id from app.job_claim('w', ${list})`;
    expect(await besides(database, held, database.worker, text)).toEqual([{ run_id: free.runId }]);
    expect(await queue.claim([busy])).toHaveLength(1);
  });
});

describe("the rate of a kind is a bucket of starts", () => {
  const dueNow = (runs: Named[]) =>
    queue.sql("update app.job_runs set available_at = clock_timestamp() where id = any ($1)", [
      runs.map((run) => run.runId),
    ]);
  const refilled = (kind: string, seconds: number) =>
    queue.sql(
      "update app.job_gates set refilled_at = refilled_at - make_interval(secs => $2) where kind = $1",
      [kind, seconds],
    );

  test("a burst starts at once; the others have their tokens when the bucket has one for them, and no attempt", async () => {
    const kind = await queue.kind({ ratePerMinute: 6, rateBurst: 3 });
    const runs = await queue.addMany(tenantId, kind, 5);
    const began = Date.now();
    expect(idsOf(await queue.claim(runs))).toEqual(
      idsOf(runs.slice(0, 3).map((run) => ({ run_id: run.runId }))),
    );
    for (const [index, run] of runs.slice(3).entries()) {
      const row = await queue.row(run);
      expect(row).toMatchObject({ state: "PENDING", attempt: 0 });
      const seconds = (row["available_at"].getTime() - began) / 1_000;
      expect(Math.abs(seconds - 10 * (index + 1))).toBeLessThan(1);
      const token = (await queue.tokens(kind)).find((each) => each["run_id"] === run.runId);
      expect(token).toMatchObject({ key: `run:${run.runId}:0`, run_at: row["available_at"] });
    }
    expect(await queue.claim(runs)).toEqual([]);
  });

  test("it fills with time, one start after the other, and holds no more than the burst", async () => {
    const kind = await queue.kind({ ratePerMinute: 6, rateBurst: 2 });
    const runs = await queue.addMany(tenantId, kind, 7);
    expect(await queue.claim(runs)).toHaveLength(2);
    await refilled(kind, 9);
    await dueNow(runs.slice(2));
    expect(await queue.claim(runs)).toHaveLength(0);
    await refilled(kind, 1.1);
    await dueNow(runs.slice(2));
    expect(await queue.claim(runs)).toHaveLength(1);
    await refilled(kind, 100_000);
    await dueNow(runs.slice(3));
    expect(await queue.claim(runs)).toHaveLength(2);
  });

  test("a delayed run does start at the moment that it was given", async () => {
    const kind = await queue.kind({ ratePerMinute: 600, rateBurst: 1 });
    const runs = await queue.addMany(tenantId, kind, 2);
    expect(await queue.claim(runs)).toHaveLength(1);
    await sleep((await queue.row(runs[1]!))["available_at"].getTime() - Date.now() + 2);
    expect(await queue.claim(runs)).toMatchObject([{ run_id: runs[1]!.runId, attempt: 1 }]);
  });

  test("each tenant has its own, and a clock that goes back fills nothing", async () => {
    const kind = await queue.kind({ ratePerMinute: 1, rateBurst: 1 });
    const runs = [
      await queue.add(tenantId, kind),
      await queue.add(tenantId, kind),
      await queue.add(other, kind),
    ];
    expect(await queue.claim(runs)).toHaveLength(2);
    await refilled(kind, -3_600);
    await dueNow([runs[1]!]);
    expect(await queue.claim(runs)).toEqual([]);
  });

  test("eight claimers take no more starts than there are", async () => {
    const kind = await queue.kind({ ratePerMinute: 1, rateBurst: 7 });
    const runs = await queue.addMany(tenantId, kind, 40);
    const claimed = await Promise.all(
      Array.from({ length: 8 }, (_, n) => queue.claim(shuffled(runs).slice(0, 20), `w${n}`)),
    );
    expect(claimed.flat().length).toBeLessThanOrEqual(7);
    expect(claimed.flat().length + (await queue.claim(runs)).length).toBe(7);
  });
});

describe("a pause", () => {
  afterEach(async () => {
    await queue.sql("update app.tiers set paused_at = null");
  });

  test.each([
    ["of the tenant", "update app.tenants set jobs_paused_at = $1 where tenant_id = $2 and $3 <> ''"],
    ["of the kind", "update app.job_kinds set paused_at = $1 where $2 <> '' and kind = $3"],
    ["of the cohort", "update app.tiers set paused_at = $1 where $2 <> '' and $3 <> '' and tier = 'DORMANT'"],
    [
      "that is a suspension",
      `update app.tenants set status = case when $1::timestamptz is null then 'ACTIVE' else 'SUSPENDED' end
       where tenant_id = $2 and $3 <> ''`,
    ],
  ])("%s parks what would start, and its end lets it in again", async (_what, text) => {
    const kind = await queue.kind({ ratePerMinute: 60, rateBurst: 5 });
    const paused = (await database.addTenant({ tier: "DORMANT" })).tenantId;
    const [run, running] = [await queue.add(paused, kind), await queue.add(paused, kind)];
    await queue.claim([running]);
    const before = await queue.row(run);
    await queue.sql(
      text.replace("$1", "$1::timestamptz").replace("::timestamptz::timestamptz", "::timestamptz"),
      [new Date(), paused, kind],
    );
    expect(await queue.claim([run])).toEqual([]);
    expect(await queue.row(run)).toEqual({ ...before, token_at: null });
    expect(await queue.row(running)).toMatchObject({ state: "RUNNING" });
    await queue.admit();
    expect(await queue.row(run)).toMatchObject({ token_at: null });

    await queue.sql(
      text.replace("$1", "$1::timestamptz").replace("::timestamptz::timestamptz", "::timestamptz"),
      [null, paused, kind],
    );
    expect(await queue.admit()).toBeGreaterThanOrEqual(1);
    expect(await queue.row(run)).toMatchObject({ token_at: expect.any(Date) });
    expect(await queue.claim([run])).toMatchObject([{ attempt: 1 }]);
  });
});

describe("who claims", () => {
  afterEach(() => queue.sql("delete from app.job_workers"));

  test("a worker is given no kind that it has no task for: another gets it five seconds later", async () => {
    const [served, strange] = [await queue.kind(), await queue.kind()];
    for (const [worker, kinds] of [
      ["picky", [served]],
      ["other", [strange]],
    ]) {
      await database.worker.pool.query(
        "select * from app.worker_beat($1, $1, 'host', 1, '1', $2, 4, '{}', '{}', '{}')",
        [worker, kinds],
      );
    }
    const [mine, theirs] = [await queue.add(tenantId, served), await queue.add(tenantId, strange)];
    expect(await queue.claim([mine, theirs], "picky")).toMatchObject([{ run_id: mine.runId }]);
    const row = await queue.row(theirs);
    expect(row).toMatchObject({ state: "PENDING", attempt: 0, token_at: expect.any(Date) });
    expect(Math.abs(row["available_at"].getTime() - Date.now() - 5_000)).toBeLessThan(2_000);
  });

  test("not the service, and not people", async () => {
    const text = "select * from app.job_claim('w', '{}', '{}')";
    for (const pool of [database.service.pool, database.ops])
      await expect(pool.query(text)).rejects.toMatchObject({ code: "42501" });
  });
});

test("a run whose row somebody holds has its token again a second later, and is started then", async () => {
  const kind = await queue.kind();
  const [held, free] = [await queue.add(tenantId, kind), await queue.add(other, kind)];
  await queue.sql("delete from graphile_worker._private_jobs"); // as a worker does that has taken the tokens
  const client = await database.superuser.connect();
  try {
    await client.query("begin");
    await client.query("select from app.job_runs where id = $1 for update", [held.runId]);
    expect(idsOf(await queue.claim([held, free]))).toEqual([free.runId]);
  } finally {
    await client.query("rollback");
    client.release();
  }
  const tokens = await queue.tokens(kind);
  expect(tokens).toHaveLength(1);
  const wait = new Date(tokens[0]!["run_at"]).getTime() - Date.now();
  expect(Math.abs(wait)).toBeLessThan(2_000);
  expect(idsOf(await queue.claim([held]))).toEqual([held.runId]);
});

describe("a kind that no living worker serves", () => {
  const beat = (worker: string, kinds: string[]) =>
    queue.sql(
      `insert into app.job_workers (worker, pool, host, pid, version, kinds, concurrency)
       values ($1, $1, 'here', 1, '1', $2, 1) on conflict (worker) do update set kinds = excluded.kinds`,
      [worker, kinds],
    );
  afterEach(() => queue.sql("delete from app.job_workers"));

  test("waits without a token, and comes in when one does", async () => {
    const kind = await queue.kind();
    const run = await queue.add(tenantId, kind);
    await beat("a", ["else"]);
    expect(await queue.claim([run], "a")).toEqual([]);
    expect(await queue.row(run)).toMatchObject({ state: "PENDING", attempt: 0, token_at: null });
    await queue.admit();
    expect(await queue.row(run)).toMatchObject({ token_at: null });
    const next = await queue.add(other, kind);
    expect(await queue.row(next)).toMatchObject({ token_at: null });

    await beat("b", [kind]);
    expect(await queue.admit()).toBe(2);
    // The worker without a task for it hands it on, and uses no attempt.
    expect(await queue.claim([run], "a")).toEqual([]);
    expect(await queue.row(run)).toMatchObject({ state: "PENDING", attempt: 0, token_at: expect.any(Date) });
    await queue.sql("update app.job_runs set available_at = now() where kind = $1", [kind]);
    expect(await queue.claim([run, next], "b")).toHaveLength(2);
  });
});
