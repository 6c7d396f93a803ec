// sql/app_private/slots_follow.sql: the kinds of a turn, each after the one before.
import { beforeEach, describe, expect, test } from "vitest";
import type { Row } from "../support/contract.ts";
import { testDatabase } from "../support/database.ts";
import { turnsOf } from "../support/turns.ts";

const database = testDatabase();
const turns = turnsOf(database);
const { rows, runsFor } = turns;

/** A tenant whose turn has just begun; its runs so far. */
async function begun(sourced = true): Promise<string> {
  const [tenantId] = (await turns.addTenants(1)) as [string];
  if (sourced) await turns.addSource(tenantId);
  await turns.makeDue([tenantId], 2);
  await turns.tick();
  return tenantId;
}
const run = async (tenantId: string, kind: string): Promise<Row | undefined> =>
  (await runsFor([tenantId])).find((each) => each["kind"] === kind);
const end = async (tenantId: string, kind: string, state?: "DEAD_LETTER") =>
  turns.end([(await run(tenantId, kind))!["id"]], state);
const kinds = async (tenantId: string) =>
  (await rows("select kind from app.job_runs where tenant_id = $1 order by id", [tenantId])).map(
    (each) => each["kind"],
  );

beforeEach(() => turns.reset());

describe("it works", () => {
  test("import, detection, analysis: each is made when the one before has ended, with its token", async () => {
    const tenantId = await begun();
    expect(await kinds(tenantId)).toEqual(["cost_import"]);
    await end(tenantId, "cost_import");
    expect(await kinds(tenantId)).toEqual(["cost_import", "detection"]);
    await end(tenantId, "detection");
    expect(await kinds(tenantId)).toEqual(["cost_import", "detection", "analysis"]);
    await end(tenantId, "analysis");
    expect(await kinds(tenantId)).toHaveLength(3);
    expect(new Set((await runsFor([tenantId])).map((each) => each["slot"])).size).toBe(1);
    expect((await runsFor([tenantId])).map((each) => each["input"])).toEqual(
      Array(3).fill({ missed_slots: 2 }),
    );
    await turns.audit();
  });

  test("what has failed for good is gone without, and each that follows hears of all", async () => {
    const tenantId = await begun();
    await end(tenantId, "cost_import", "DEAD_LETTER");
    expect((await run(tenantId, "detection"))!["input"]).toEqual({
      missed_slots: 2,
      without: ["cost_import"],
    });
    await end(tenantId, "detection", "DEAD_LETTER");
    expect((await run(tenantId, "analysis"))!["input"]).toEqual({
      missed_slots: 2,
      without: ["cost_import", "detection"],
    });
  });

  test("a failure that is tried again is no end", async () => {
    const tenantId = await begun(false);
    await rows(
      `update app.job_runs set state = 'RUNNING', attempt = 1, lease_until = now() + interval '1 minute' where tenant_id = $1`,
      [tenantId],
    );
    await rows(
      "update app.job_runs set state = 'FAILED', lease_until = null, error_code = 'x' where tenant_id = $1",
      [tenantId],
    );
    expect(await kinds(tenantId)).toEqual(["detection"]);
  });

  test("a run that somebody asked for has no next one", async () => {
    const [tenantId] = (await turns.addTenants(1)) as [string];
    const [asked] = await rows(
      "insert into app.job_runs (tenant_id, kind, token_at) values ($1, 'detection', now()) returning id",
      [tenantId],
    );
    await turns.end([asked!["id"]]);
    expect(await kinds(tenantId)).toEqual(["detection"]);
  });

  test("an import that comes later in the order is for tenants with a source", async () => {
    await rows("update app.job_kinds set slot_order = 25 where kind = 'cost_import'");
    try {
      const [plain, sourced] = [await begun(false), await begun()];
      await end(plain, "detection");
      await end(sourced, "detection");
      expect([await kinds(plain), await kinds(sourced)]).toEqual([
        ["detection", "analysis"],
        ["detection", "cost_import"],
      ]);
    } finally {
      await rows("update app.job_kinds set slot_order = 10 where kind = 'cost_import'");
    }
  });

  test("while a kind is paused, its run waits without a token", async () => {
    const tenantId = await begun(false);
    await rows("update app.job_kinds set paused_at = now() where kind = 'analysis'");
    await end(tenantId, "detection");
    expect(await run(tenantId, "analysis")).toMatchObject({ state: "PENDING", token_at: null });
  });
});

describe("it works twice", () => {
  test("who replays one that had its next one makes no second", async () => {
    const tenantId = await begun();
    await end(tenantId, "cost_import", "DEAD_LETTER");
    const dead = (await run(tenantId, "cost_import"))!["id"];
    // The turns of long ago are swept.
    await rows("delete from app.job_slots where kind = 'detection'");
    await rows(
      `update app.job_runs set state = 'PENDING', finished_at = null, failure_count = 0, replay_count = 1, actor = 'me',
         reason = 'again' where id = $1`,
      [dead],
    );
    await turns.end([dead]);
    expect(await kinds(tenantId)).toEqual(["cost_import", "detection"]);
  });

  test("one that was cancelled ends its turn; replayed, it goes on, once", async () => {
    const tenantId = await begun(false);
    await rows(
      `update app.job_runs set state = 'DEAD_LETTER', error_code = 'job_cancelled', finished_at = now(), discarded_at = now()
       where tenant_id = $1`,
      [tenantId],
    );
    expect(await kinds(tenantId)).toEqual(["detection"]);
    const { id } = (await run(tenantId, "detection"))! as { id: string };
    // A turn of today: slots are kept, so that the next one is made once.
    await rows("update app.job_runs set slot = extract(epoch from now())::bigint where id = $1", [id]);
    await rows(
      `update app.job_runs set state = 'PENDING', finished_at = null, discarded_at = null, replay_count = 1, actor = 'me',
         reason = 'a mistake' where id = $1`,
      [id],
    );
    await turns.end([id]);
    expect(await kinds(tenantId)).toEqual(["detection", "analysis"]);
  });

  test("two runs of one turn that end in one statement: each has its own next one", async () => {
    const tenantId = await begun();
    await end(tenantId, "cost_import", "DEAD_LETTER");
    await rows(
      `update app.job_runs set state = 'PENDING', finished_at = null, replay_count = 1, actor = 'me', reason = 'again'
       where kind = 'cost_import'`,
    );
    await turns.end((await runsFor([tenantId])).map((each) => each["id"]));
    expect((await kinds(tenantId)).sort()).toEqual(["analysis", "cost_import", "detection"]);
  });

  test("many at once", async () => {
    const tenants = await turns.addToOneShard(50);
    await turns.makeDue(tenants);
    await turns.tick();
    await turns.end((await runsFor(tenants)).map((each) => each["id"]));
    await turns.end(
      (await runsFor(tenants)).filter((each) => each["state"] === "PENDING").map((each) => each["id"]),
    );
    expect(await runsFor(tenants)).toHaveLength(100);
    await turns.audit();
  });
});

describe("a turn that was cancelled does not go on", () => {
  test.each(["PENDING", "RUNNING"])("when its run is %s, by force", async (state) => {
    const tenantId = await begun();
    const { id } = (await run(tenantId, "cost_import")) as { id: string };
    if (state === "RUNNING")
      await rows(
        "update app.job_runs set state = 'RUNNING', attempt = 1, lease_until = now() where id = $1",
        [id],
      );
    await database.ops.query("select ops.job_cancel($1, actor => 'me', reason => 'a test', force => true)", [
      id,
    ]);
    expect(await kinds(tenantId)).toEqual(["cost_import"]);
  });

  test("nor when its worker was quicker and has completed it", async () => {
    const tenantId = await begun();
    const { id } = (await run(tenantId, "cost_import")) as { id: string };
    await rows("update app.job_runs set state = 'RUNNING', attempt = 1, lease_until = now() where id = $1", [
      id,
    ]);
    await database.ops.query("select ops.job_cancel($1, actor => 'me', reason => 'a test')", [id]);
    await rows(
      "update app.job_runs set state = 'COMPLETED', lease_until = null, finished_at = now() where id = $1",
      [id],
    );
    expect(await kinds(tenantId)).toEqual(["cost_import"]);
  });
});

describe("while a kind is paused", () => {
  /** Of a cohort in these tests. */
  const PERIOD_SECONDS = 31 * 86_400;
  const parked = async (tenantId: string, kind: string) =>
    rows("select from app.job_runs where tenant_id = $1 and kind = $2 and state = 'PENDING'", [
      tenantId,
      kind,
    ]);

  test("the turns go on, and one run of it waits for all of them", async () => {
    const [tenantId] = (await turns.addToOneShard(1)) as [string];
    await turns.makeDue([tenantId]);
    await rows("update app.job_kinds set paused_at = now() where kind = 'analysis'");
    for (let turn = 1; turn <= 3; turn += 1) {
      if (turn > 1) await turns.pass(PERIOD_SECONDS);
      await turns.tick();
      await turns.end(
        (await runsFor([tenantId]))
          .filter((each) => each["kind"] === "detection" && each["state"] === "PENDING")
          .map((each) => each["id"]),
      );
    }
    const made = (await runsFor([tenantId])).map((each) => each["kind"]);
    expect(made.filter((kind) => kind === "detection").length).toBeGreaterThanOrEqual(3);
    expect(await parked(tenantId, "analysis")).toHaveLength(1);
  });

  test("that is the first of the turn, there is one turn", async () => {
    const [tenantId] = (await turns.addToOneShard(1)) as [string];
    await turns.makeDue([tenantId]);
    await rows("update app.job_kinds set paused_at = now() where kind = 'detection'");
    for (let turn = 1; turn <= 3; turn += 1) {
      if (turn > 1) await turns.pass(PERIOD_SECONDS);
      await turns.tick();
    }
    expect(await parked(tenantId, "detection")).toHaveLength(1);
  });
});
