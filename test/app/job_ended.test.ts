// sql/app_private/tg_job_runs__ended.sql with slots_follow and slot_input: what follows from the end of a run, whoever ends
// it; and cancels_force.sql.
import { beforeAll, beforeEach, describe, expect, test } from "vitest";
import { claimsOf, type Named } from "../support/claims.ts";
import type { Row } from "../support/contract.ts";
import { testDatabase } from "../support/database.ts";

const database = testDatabase();
const queue = claimsOf(database);
let kinds: [string, string, string];
let tenantId = "";

beforeAll(async () => {
  await queue.sql("update app.job_kinds set slot_order = null");
  kinds = [
    await queue.kind({ slotOrder: 10, maxRunning: 1, maxRetries: 0 }),
    await queue.kind({ slotOrder: 20, maxRunning: 1, maxRetries: 0 }),
    await queue.kind({ slotOrder: 30, maxRunning: 1, maxRetries: 0 }),
  ];
});
beforeEach(async () => {
  ({ tenantId } = await database.addTenant());
});

/** The first run of a slot, as a tick makes it. */
async function begin(slot: number, kind = kinds[0], input = {}): Promise<Named> {
  const [run] = await queue.sql(
    `with made as (
       insert into app.job_runs (tenant_id, kind, slot, input, token_at) values ($1, $2, $3, $4, now()) returning id)
     insert into app.job_slots (tenant_id, kind, slot, run_id) select $1, $2, $3, m.id from made as m returning run_id`,
    [tenantId, kind, slot, input],
  );
  return { tenantId, runId: run!["run_id"] };
}
const next = async (kind: string): Promise<Row[]> =>
  queue.sql("select * from app.job_runs where tenant_id = $1 and kind = $2 order by slot, id", [
    tenantId,
    kind,
  ]);
const events = (run: Named) =>
  queue.sql("select type, data from app.events where subject_id = $1", [run.runId]);
const named = (row: Row): Named => ({ tenantId: row["tenant_id"], runId: row["id"] });

describe("a run of a slot", () => {
  test("that is completed is followed by the next kind of its slot, with its place and its token, once", async () => {
    const first = await begin(7_200, kinds[0], { missed_slots: 3 });
    expect(await next(kinds[1])).toEqual([]);
    await queue.claim([first]);
    expect(await next(kinds[1])).toEqual([]);
    await queue.complete(first);

    const [second, ...others] = await next(kinds[1]);
    expect(others).toEqual([]);
    expect(second).toMatchObject({
      state: "PENDING",
      slot: "7200",
      input: { missed_slots: 3 },
      token_rank: 0,
    });
    expect(await queue.tokens(kinds[1])).toContainEqual(
      expect.objectContaining({ key: `run:${second!["id"]}:0`, tenant_id: tenantId }),
    );
    expect(
      await queue.sql("select run_id from app.job_slots where tenant_id = $1 and kind = $2", [
        tenantId,
        kinds[1],
      ]),
    ).toEqual([{ run_id: second!["id"] }]);

    await queue.claim([named(second!)]);
    await queue.complete(named(second!));
    const [third] = await next(kinds[2]);
    await queue.claim([named(third!)]);
    await queue.complete(named(third!));
    const [runs] = await queue.sql("select count(*)::int as n from app.job_runs where tenant_id = $1", [
      tenantId,
    ]);
    expect(runs).toEqual({ n: 3 });
  });

  test("that is dead is followed all the same, and those after it are told that they go without it", async () => {
    const first = await begin(60);
    await queue.claim([first]);
    await queue.fail(first, "x");
    const [second] = await next(kinds[1]);
    expect(second!["input"]).toEqual({ without: [kinds[0]] });
    await queue.claim([named(second!)]);
    await queue.fail(named(second!), "x");
    const [third] = await next(kinds[2]);
    expect(third!["input"]).toEqual({ without: [kinds[0], kinds[1]] });
  });

  test("that waits for another attempt is not followed yet", async () => {
    await queue.sql("update app.job_kinds set max_retries = 1 where kind = $1", [kinds[0]]);
    const first = await begin(61);
    await queue.claim([first]);
    await queue.fail(first, "x");
    expect(await next(kinds[1])).toEqual([]);
    await queue.sql("update app.job_kinds set max_retries = 0 where kind = $1", [kinds[0]]);
  });

  test("whose next one was made already makes none again: not after a replay, and not when its slot was swept", async () => {
    const first = await begin(62);
    await queue.claim([first]);
    await queue.fail(first, "x");
    const [second] = await next(kinds[1]);
    await queue.sql(
      `update app.job_runs set state = 'PENDING', replay_count = 1, failure_count = 0, finished_at = null, token_at = now(),
         available_at = now(), actor = 'me', reason = 'again' where id = $1`,
      [first.runId],
    );
    await queue.sql("delete from app.job_slots where tenant_id = $1", [tenantId]);
    expect(await queue.claim([first])).toMatchObject([{ attempt: 2 }]);
    await queue.complete(first, 2);
    expect((await next(kinds[1])).map((row) => row["id"])).toEqual([second!["id"]]);
  });

  test("is followed by a run without a token when the next kind has no place or is paused", async () => {
    const [one, two] = [await begin(63), await begin(64)];
    for (const run of [one, two]) {
      await queue.claim([run]);
      await queue.complete(run);
    }
    expect((await next(kinds[1])).map((row) => row["token_at"] !== null)).toEqual([true, false]);
    await queue.sql("update app.tenants set jobs_paused_at = now() where tenant_id = $1", [tenantId]);
    const three = await begin(65);
    await queue.sql(
      "update app.job_runs set state = 'RUNNING', lease_until = now(), attempt = 1 where id = $1",
      [three.runId],
    );
    await queue.complete(three);
    expect((await next(kinds[1])).map((row) => row["token_at"] !== null)).toEqual([true, false, false]);
  });

  test("many that end in one statement are followed by one each", async () => {
    const runs: Named[] = [];
    for (let n = 0; n < 5; n += 1) {
      ({ tenantId } = await database.addTenant());
      runs.push(await begin(66));
    }
    await queue.claim(runs);
    await queue.sql(
      "update app.job_runs set lease_until = now() - interval '1 s', crash_count = 2 where id = any ($1)",
      [runs.map((run) => run.runId)],
    );
    await queue.sql("select app.job_reap()");
    const [made] = await queue.sql(
      `select count(*)::int as n, count(distinct tenant_id)::int as tenants, count(token_at)::int as tokens
       from app.job_runs where slot = 66 and kind = $1 and input = jsonb_build_object('without', array[$2])`,
      [kinds[1], kinds[0]],
    );
    expect(made).toEqual({ n: 5, tenants: 5, tokens: 5 });
  });
});

describe("a run that somebody asked for", () => {
  test("is followed by nothing", async () => {
    const run = await queue.add(tenantId, kinds[0]);
    await queue.claim([run]);
    await queue.complete(run);
    expect(await next(kinds[1])).toEqual([]);
    expect(await events(run)).toEqual([]);
  });

  test("is told of when it is dead, unless a person has put it aside", async () => {
    const [dead, cancelled] = [await queue.add(tenantId, kinds[0]), await queue.add(tenantId, kinds[1])];
    await queue.claim([dead, cancelled]);
    await queue.fail(dead, "x");
    await queue.fail(cancelled, "job_cancelled");
    expect(await events(dead)).toEqual([
      { type: "run.dead_letter", data: { kind: kinds[0], error_code: "x" } },
    ]);
    expect((await events(cancelled)).map((event) => event["type"])).not.toContain("run.dead_letter");
    expect(await queue.row(cancelled)).toMatchObject({
      state: "DEAD_LETTER",
      discarded_at: expect.any(Date),
    });
  });

  test("gives its place on, whoever ends it", async () => {
    const runs = await queue.addMany(tenantId, kinds[0], 2);
    await queue.sql(
      "update app.job_runs set state = 'DEAD_LETTER', error_code = 'job_cancelled', finished_at = now() where id = $1",
      [runs[0]!.runId],
    );
    expect(await queue.row(runs[1]!)).toMatchObject({ token_at: expect.any(Date), token_rank: 0 });
  });
});

describe("a cancel", () => {
  const ask = (run: Named, seconds = 0) =>
    queue.sql(
      `update app.job_runs set cancel_requested_at = clock_timestamp() - make_interval(secs => $2), actor = 'ann', reason = 'wrong'
       where id = $1`,
      [run.runId, seconds],
    );
  const reap = () => queue.sql("select * from app.job_reap()");

  test("that is not heard is forced 15 s later, and what the worker then says is fenced", async () => {
    const [run, waiting] = await queue.addMany(tenantId, kinds[0], 2);
    await queue.claim([run!]);
    await ask(run!, 14);
    await reap();
    expect(await queue.row(run!)).toMatchObject({ state: "RUNNING" });
    await ask(run!, 16);
    await reap();
    const ended = await queue.row(run!);
    expect(ended).toMatchObject({
      state: "DEAD_LETTER",
      error_code: "job_cancelled",
      lease_until: null,
      finished_at: expect.any(Date),
      discarded_at: expect.any(Date),
    });
    await expect(queue.complete(run!)).rejects.toMatchObject({ code: "JB201" });
    expect(await queue.row(run!)).toEqual(ended);
    expect(await queue.row(waiting!)).toMatchObject({ token_at: expect.any(Date) });
  });

  test("is not forgotten when the worker is lost", async () => {
    const run = await queue.add(tenantId, kinds[0]);
    await queue.claim([run]);
    await ask(run);
    await queue.sql("update app.job_runs set lease_until = now() - interval '1 s' where id = $1", [
      run.runId,
    ]);
    await reap();
    expect(await queue.row(run)).toMatchObject({ state: "DEAD_LETTER", error_code: "job_cancelled" });
    expect(await queue.claim([run])).toEqual([]);
  });

  test.each(["llm_timeout", "shutdown"])("is not forgotten when the attempt ends by %s", async (code) => {
    const kind = await queue.kind({ maxRetries: 5 });
    const run = await queue.add(tenantId, kind);
    await queue.claim([run]);
    await ask(run);
    expect(await queue.fail(run, code)).toMatchObject({ state: "DEAD_LETTER" });
    expect(await queue.row(run)).toMatchObject({
      error_code: "job_cancelled",
      discarded_at: expect.any(Date),
    });
    expect(await queue.claim([run])).toEqual([]);
  });

  test("comes too late for an attempt that is completed", async () => {
    const run = await queue.add(tenantId, kinds[0]);
    await queue.claim([run]);
    await ask(run, 16);
    await queue.complete(run);
    await reap();
    expect(await queue.row(run)).toMatchObject({ state: "COMPLETED" });
  });
});
