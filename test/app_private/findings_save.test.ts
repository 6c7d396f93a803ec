// sql/app_private/findings_save.sql: a finding lives from run to run.
import { beforeEach, describe, expect, test } from "vitest";
import { lockWaits, type Row } from "../support/contract.ts";
import { testDatabase } from "../support/database.ts";
import { analysesOf, costOf, THREE_FINDINGS } from "../support/findings.ts";

const database = testDatabase();
const { costs, runs, detect, analyse, findings } = analysesOf(database);
let tenantId = "";

beforeEach(async () => {
  ({ tenantId } = await database.addTenant());
});

const QUIET = [...costOf("EC2", 100), ...costOf("S3", 100)];
const setState = (id: string, state: string) =>
  database.superuser.query(
    "update app.findings set state = $2, resolved_at = case when $2 = 'resolved' then now() end where id = $1",
    [id, state],
  );
const states = async () => (await findings(tenantId)).map((each) => each["state"]);

describe("it works", () => {
  test("what is found is kept, best first: savings, then the money it is about", async () => {
    await costs.load(tenantId, THREE_FINDINGS);
    const { runId } = await analyse(tenantId);
    const kept = await findings(tenantId);
    expect(
      kept.map((each) => [each["rank"], each["detector"], each["scope"]["service"] ?? each["scope"]["tag"]]),
    ).toEqual([
      [1, "cost_anomaly", "EC2"],
      [2, "cost_anomaly", "S3"],
      [3, "untagged_spend", "owner"],
    ]);
    expect(kept.map((each) => each["monthly_saving"])).toEqual([String(60 * 30.4375), null, null]);
    for (const each of kept) {
      expect(each).toMatchObject({
        run_id: runId,
        state: "open",
        occurrences: 1,
        narrated_by: "template",
        caveats: [],
        resolved_at: null,
      });
      expect(each["first_seen_at"]).toEqual(each["last_seen_at"]);
      // Every {{slot}} of the words of SQL has a value.
      const words = `${each["headline"]} ${each["why"]}`;
      for (const [, name] of words.matchAll(/\{\{(\w+)\}\}/g))
        expect(Object.keys(each["slots"])).toContain(name);
      expect(words.replaceAll(/\{\{\w+\}\}/g, "")).not.toMatch(/[\d{}]/);
    }
  });
});

describe("it works twice", () => {
  test("the same finding is the same row, seen once more by each run", async () => {
    await costs.load(tenantId, THREE_FINDINGS);
    await analyse(tenantId);
    const first = await findings(tenantId);
    const { runId } = await analyse(tenantId);
    const second = await findings(tenantId);
    expect(second.map((each) => each["id"])).toEqual(first.map((each) => each["id"]));
    for (const [index, each] of second.entries()) {
      expect(each).toMatchObject({
        occurrences: 2,
        run_id: runId,
        first_seen_at: first[index]!["first_seen_at"],
      });
      expect(each["last_seen_at"].getTime()).toBeGreaterThan(first[index]!["last_seen_at"].getTime());
    }
  });

  test("an attempt that is tried again is not another time that it was seen", async () => {
    await costs.load(tenantId, THREE_FINDINGS);
    const runId = await runs.running(tenantId);
    await detect(tenantId, runId);
    await detect(tenantId, runId);
    expect((await findings(tenantId)).map((each) => each["occurrences"])).toEqual([1, 1, 1]);
  });

  test("an attempt that is tried again and sees less resolves what the first one saw", async () => {
    await costs.load(tenantId, THREE_FINDINGS);
    const runId = await runs.running(tenantId, "detection");
    await detect(tenantId, runId);
    await costs.load(tenantId, QUIET);
    expect(await detect(tenantId, runId)).toEqual({ findings: 0, open: 0 });
    expect(await states()).toEqual(["resolved", "resolved", "resolved"]);
  });

  test("two runs at once keep each finding once", async () => {
    await costs.load(tenantId, THREE_FINDINGS);
    for (let round = 0; round < 3; round += 1) {
      const running = await Promise.all([1, 2, 3, 4].map(() => runs.running(tenantId)));
      const seen = await Promise.all(running.map((runId) => detect(tenantId, runId)));
      for (const each of seen) expect(each).toEqual({ findings: 3, open: 3 });
      for (const runId of running) await runs.fail(tenantId, runId, 1, "analysis_invalid");
    }
    expect(await findings(tenantId)).toHaveLength(3);
    expect(await states()).toEqual(["open", "open", "open"]);
  });

  test("two runs over different data, which order the same findings differently, wait for one another", async () => {
    const spikes = (first: string, last: string) => [
      ...costOf(first, 100, { 6: 1_000 }),
      ...costOf("middle", 100, { 6: 700 }),
      ...costOf(last, 100, { 6: 400 }),
    ];
    await costs.load(tenantId, spikes("one", "other"));
    await analyse(tenantId);
    const [early, late] = [await runs.running(tenantId), await runs.running(tenantId)];
    const waiting = (count: number) =>
      expect.poll(() => lockWaits(database), { timeout: 10_000 }).toBe(count);

    // A third party holds the finding in the middle, until each run has come as far as it can.
    const holder = await database.superuser.connect();
    await holder.query("begin");
    await holder.query(
      "select from app.findings where tenant_id = $1 and scope ->> 'service' = 'middle' for no key update",
      [tenantId],
    );
    const first = detect(tenantId, early);
    await waiting(1);
    await costs.load(tenantId, spikes("other", "one"));
    const second = detect(tenantId, late);
    await waiting(2);
    await holder.query("commit");
    holder.release();
    const outcomes = await Promise.allSettled([first, second]);
    expect(outcomes.map((each) => (each.status === "rejected" ? each.reason.code : "done"))).toEqual([
      "done",
      "done",
    ]);
  });

  test("numbers follow the data", async () => {
    await costs.load(tenantId, costOf("S3", 100, { 6: 500 }));
    await analyse(tenantId);
    await costs.load(tenantId, costOf("S3", 100, { 6: 700 }));
    await analyse(tenantId);
    const [finding, ...more] = await findings(tenantId);
    expect(more).toEqual([]);
    expect(finding).toMatchObject({
      evidence: { excess: 600 },
      severity: "medium",
      slots: { excess: "600.00 USD" },
      occurrences: 2,
    });
  });
});

describe("what is no longer seen", () => {
  async function seenThenGone(state: string): Promise<Row> {
    await costs.load(tenantId, costOf("S3", 100, { 6: 500 }));
    await analyse(tenantId);
    await setState((await findings(tenantId))[0]!["id"], state);
    await costs.load(tenantId, QUIET);
    await analyse(tenantId);
    return (await findings(tenantId))[0]!;
  }

  test.each(["open", "acknowledged"])(
    "and was %s is resolved, and opened again when it comes back",
    async (state) => {
      const gone = await seenThenGone(state);
      expect(gone).toMatchObject({ state: "resolved", resolved_at: expect.any(Date), occurrences: 1 });
      await costs.load(tenantId, costOf("S3", 100, { 6: 500 }));
      await analyse(tenantId);
      expect(await findings(tenantId)).toMatchObject([
        { id: gone["id"], state: "open", resolved_at: null, occurrences: 2 },
      ]);
    },
  );

  test.each(["snoozed", "dismissed"])("and was %s stays so", async (state) => {
    expect(await seenThenGone(state)).toMatchObject({ state, resolved_at: null });
  });

  test("is resolved once: the moment does not move with each run", async () => {
    const gone = await seenThenGone("open");
    await analyse(tenantId);
    expect((await findings(tenantId))[0]).toEqual(gone);
  });
});

test.each(["dismissed", "snoozed", "acknowledged"])(
  "what people %s stays so though it is seen again",
  async (state) => {
    await costs.load(tenantId, THREE_FINDINGS);
    await analyse(tenantId);
    const [first] = await findings(tenantId);
    await setState(first!["id"], state);
    const { candidates } = await analyse(tenantId);
    expect((await findings(tenantId)).find((each) => each["id"] === first!["id"])).toMatchObject({
      state,
      occurrences: 2,
    });
    // Nobody is asked to word again what a person has put away.
    expect(candidates.map((each) => each["finding_id"]).includes(first!["id"])).toBe(
      state === "acknowledged",
    );
  },
);

test("the findings of another tenant are not touched", async () => {
  const other = await database.addTenant();
  await costs.load(other.tenantId, THREE_FINDINGS);
  await analyse(other.tenantId);
  const before = await findings(other.tenantId);
  await costs.load(tenantId, QUIET);
  await analyse(tenantId);
  expect(await findings(other.tenantId)).toEqual(before);
  expect(await findings(tenantId)).toEqual([]);
});
