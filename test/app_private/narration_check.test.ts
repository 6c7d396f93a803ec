// sql/app_private/narration_check.sql and analysis_apply.sql: the words of a model, and what SQL takes of them.
import { randomUUID } from "node:crypto";
import { beforeEach, describe, expect, test } from "vitest";
import { lockWaits, type Row, refusal } from "../support/contract.ts";
import { testDatabase } from "../support/database.ts";
import {
  analysesOf,
  BY_TEMPLATE,
  byModel,
  costOf,
  type Item,
  itemFor,
  THREE_FINDINGS,
} from "../support/findings.ts";

const database = testDatabase();
const { costs, runs, detect, candidates: candidatesOf, scheduled, findings, list } = analysesOf(database);
let tenantId = "";
let runId = "";
let candidates: Row[] = [];

beforeEach(async () => {
  if (tenantId === "") {
    ({ tenantId } = await database.addTenant());
    await costs.load(tenantId, THREE_FINDINGS);
  }
  runId = await runs.running(tenantId);
  candidates = await candidatesOf(tenantId, runId);
});

const complete = (result: unknown) => runs.complete(tenantId, runId, 1, result);
const item = (different: Partial<Item> = {}, rank = 1) => itemFor(candidates[0]!, rank, different);

/** Nothing of it was kept: neither words nor the end of the run. */
async function isRefused(result: unknown): Promise<void> {
  const before = await findings(tenantId);
  expect((await refusal(complete(result), "analysis_invalid")).status).toBe(400);
  expect(await findings(tenantId)).toEqual(before);
  expect(await runs.row(runId)).toMatchObject({ state: "RUNNING", result: null });
}

describe("it takes", () => {
  test("words with slots, which are filled when they are read", async () => {
    await complete(
      byModel([
        item({
          headline: "{{service}} costs {{excess_per_day}} more a day",
          why: "It began on {{first_day}} and stands.",
          caveats: ["Only {{days}} are known."],
        }),
      ]),
    );
    const listed = (await list(tenantId)).find((each) => each["id"] === candidates[0]!["finding_id"]);
    expect(listed).toMatchObject({
      headline: "EC2 costs 60.00 USD more a day",
      why: "It began on 14 Nov 2024 and stands.",
      caveats: ["Only 4 days are known."],
      narrated_by: "model",
    });
    const { rows } = await database.superuser.query("select * from app.analyses where id = $1", [runId]);
    expect(rows).toMatchObject([
      {
        narrated_by: "model",
        fallback_reason: null,
        model: "offline-analyst",
        prompt_hash: "ab12",
        summary: "All is told.",
        finding_count: 3,
      },
    ]);
  });

  test("an order: what the model put first is first, and what it left out comes behind", async () => {
    await complete(byModel([itemFor(candidates[2]!, 1), itemFor(candidates[0]!, 2)]));
    const kept = await findings(tenantId);
    expect(kept.map((each) => each["id"])).toEqual(
      [2, 0, 1].map((index) => candidates[index]!["finding_id"]),
    );
    expect(kept.map((each) => each["rank"])).toEqual([1, 2, 3]);
    expect(kept.map((each) => each["narrated_by"])).toEqual(["model", "model", "template"]);
  });

  test("that a finding needs no action", async () => {
    await complete(byModel([item({ remediation_code: "no_action" })]));
    expect((await findings(tenantId))[0]).toMatchObject({ remediation_code: "no_action" });
  });

  test("the longest words", async () => {
    await complete(byModel([item({ headline: "é".repeat(200), why: "💰".repeat(1_000) })]));
    expect((await findings(tenantId))[0]!["why"]).toHaveLength(2_000); // as JavaScript counts
  });

  test("no item at all, and then the words of SQL stay", async () => {
    const before = await findings(tenantId);
    await complete(BY_TEMPLATE);
    expect(await findings(tenantId)).toEqual(before);
  });

  test("words for what a later detection saw alike: the numbers that they speak of are the same", async () => {
    await detect(tenantId, await runs.running(tenantId, "detection"));
    expect(await complete(byModel([item({ headline: "Still so" })]))).toBe("COMPLETED");
    expect((await findings(tenantId))[0]).toMatchObject({ headline: "Still so", narrated_by: "model" });
  });
});

/** Only that finding is worded; the run completes all the same. */
async function isDropped(): Promise<void> {
  expect(await complete(byModel([item({ headline: "Too late" }), itemFor(candidates[1]!, 2)]))).toBe(
    "COMPLETED",
  );
  const kept = await findings(tenantId);
  const byId = (index: number) => kept.find((each) => each["id"] === candidates[index]!["finding_id"]);
  expect(byId(0)!["headline"]).not.toBe("Too late");
  expect(byId(1)).toMatchObject({ narrated_by: "model" });
}

describe("it drops", () => {
  beforeEach(async () => {
    ({ tenantId } = await database.addTenant());
    await costs.load(tenantId, THREE_FINDINGS);
    runId = await runs.running(tenantId);
    candidates = await candidatesOf(tenantId, runId);
  });

  const change = (set: string) =>
    database.superuser.query(`update app.findings set ${set} where id = $1`, [candidates[0]!["finding_id"]]);

  test("words for what a later detection saw otherwise", async () => {
    await costs.load(tenantId, [
      ...costOf("EC2", 100, { 0: 190, 1: 190, 2: 190, 3: 190 }),
      ...costOf("S3", 100, { 6: 1_100 }),
    ]);
    await detect(tenantId, await runs.running(tenantId, "detection"));
    await isDropped();
    const seen = (await findings(tenantId)).find((each) => each["id"] === candidates[0]!["finding_id"]);
    expect(seen).toMatchObject({ narrated_by: "template", state: "open" });
  });

  test("words for what a later detection has resolved, which stays resolved", async () => {
    await costs.load(tenantId, [...costOf("EC2", 100), ...costOf("S3", 100, { 6: 1_100 })]);
    await detect(tenantId, await runs.running(tenantId, "detection"));
    await isDropped();
    const gone = (await findings(tenantId)).find((each) => each["id"] === candidates[0]!["finding_id"]);
    expect(gone).toMatchObject({ narrated_by: "template", state: "resolved", resolved_at: expect.any(Date) });
  });

  test.each(["dismissed", "snoozed"])("words for what a person has %s meanwhile", async (state) => {
    await change(`state = '${state}'`);
    await isDropped();
  });

  test("what would be refused for a finding that stands: it is gone, whatever the words are", async () => {
    await change("state = 'dismissed'");
    expect(await complete(byModel([item({ headline: "It costs 60", why: "" })]))).toBe("COMPLETED");
  });

  test("words for what another analysis of the same moment has said to leave alone", async () => {
    const other = await runs.running(tenantId);
    const theirs = await candidatesOf(tenantId, other);
    expect(theirs).toEqual(candidates);
    await runs.complete(
      tenantId,
      other,
      1,
      byModel([itemFor(theirs[0]!, 1, { remediation_code: "no_action" })]),
    );
    await isDropped();
    expect(
      (await findings(tenantId)).find((each) => each["id"] === candidates[0]!["finding_id"]),
    ).toMatchObject({ remediation_code: "no_action", narrated_by: "model" });
  });

  test("what changes while the analysis waits for the finding to be free", async () => {
    const holder = await database.superuser.connect();
    await holder.query("begin");
    await holder.query(
      "update app.findings set slots = slots - 'excess' || '{\"excess\": \"1\"}' where id = $1",
      [candidates[0]!["finding_id"]],
    );
    const dropped = isDropped();
    await expect.poll(() => lockWaits(database), { timeout: 10_000 }).toBe(1);
    await holder.query("commit");
    holder.release();
    await dropped;
  });
});

test("two analyses at once each word what stands, and both end", async () => {
  const running = await Promise.all([1, 2, 3, 4].map(() => runs.running(tenantId)));
  const shown = await Promise.all(running.map((id) => candidatesOf(tenantId, id)));
  const ended = running.map((id, index) =>
    runs.complete(
      tenantId,
      id,
      1,
      byModel(
        shown[index]!.toReversed().map((each, rank) =>
          itemFor(each, rank + 1, { headline: `By ${"abcd"[index]}` }),
        ),
      ),
    ),
  );
  expect(await Promise.all(ended)).toEqual(running.map(() => "COMPLETED"));
  const kept = await findings(tenantId);
  expect(new Set(kept.map((each) => each["headline"])).size).toBe(1);
  expect(kept.map((each) => each["rank"])).toEqual([1, 2, 3]);
});

describe("without", () => {
  const withoutOf = async (id: string) =>
    (await database.superuser.query("select without from app.analyses where id = $1", [id])).rows[0].without;

  test("a kind of its slot that has failed: the analysis remembers it, and its event says so", async () => {
    const scheduledId = await scheduled(tenantId, "analysis", 3_600, {
      without: ["cost_import", "detection"],
    });
    await candidatesOf(tenantId, scheduledId);
    await runs.complete(tenantId, scheduledId, 1, BY_TEMPLATE);
    expect(await withoutOf(scheduledId)).toEqual(["cost_import", "detection"]);
    const { rows } = await database.superuser.query(
      "select data from app.events where tenant_id = $1 and subject_id = $2 and type = 'analysis.completed'",
      [tenantId, scheduledId],
    );
    expect(rows).toMatchObject([{ data: { without: ["cost_import", "detection"] } }]);
  });

  test("nothing, where nothing failed", async () => {
    const scheduledId = await scheduled(tenantId, "analysis", 7_200, { missed_slots: 2 });
    await runs.complete(tenantId, scheduledId, 1, BY_TEMPLATE);
    expect(await withoutOf(scheduledId)).toEqual([]);
  });

  test("what a caller says in the input of a run of its own counts for nothing", async () => {
    for (const without of [["cost_import"], "cost_import", 7]) {
      const asked = await runs.add(tenantId);
      await database.superuser.query("update app.job_runs set input = $2 where id = $1", [
        asked,
        { without },
      ]);
      await runs.claim(tenantId, asked);
      await runs.complete(tenantId, asked, 1, BY_TEMPLATE);
      expect(await withoutOf(asked)).toEqual([]);
    }
  });
});

describe("it refuses", () => {
  test.each<[string, Partial<Item>]>([
    ["a digit in the headline", { headline: "{{service}} costs 60 more" }],
    ["a digit in the reason", { why: "It was 3 times as much." }],
    ["a digit in a caveat", { caveats: ["fine", "2 days are missing"] }],
    ["a digit of another script", { headline: "It costs ٣٠ more" }],
    ["a digit in full width", { headline: "It costs ６０ more" }],
    ["a raised digit", { headline: "A rise²" }],
    ["a fraction", { why: "About ½ of it" }],
    ["a slot that is not one of the finding", { headline: "{{password}} stands out" }],
    ["a slot of another detector", { headline: "{{untagged}} stands out" }],
    ["half a slot", { headline: "{{service stands out" }],
    ["a brace", { why: "it { stands }" }],
    ["a slot inside of a slot", { headline: "{{ser{{days}}vice}} stands out" }],
    ["a slot that only filling would make", { why: "{{ex{{days}}cess}}" }],
    ["an empty headline", { headline: "" }],
    ["an empty reason", { why: "" }],
    ["a long headline", { headline: "x".repeat(201) }],
    ["a long reason", { why: "x".repeat(1_001) }],
    ["a long caveat", { caveats: ["x".repeat(1_001)] }],
    ["a hundred caveats", { caveats: Array.from({ length: 100 }, () => "so it is") }],
    ["a remedy that is not one of the finding", { remediation_code: "delete_everything" }],
    ["the remedy of another detector", { remediation_code: "tag_resources" }],
    ["no remedy", { remediation_code: null as unknown as string }],
    ["a finding that is not there", { finding_id: randomUUID() }],
    ["no finding", { finding_id: null as unknown as string }],
    ["no mark", { mark: null as unknown as string }],
    ["no rank", { rank: null as unknown as number }],
    ["rank zero", { rank: 0 }],
    ["a negative rank", { rank: -1 }],
  ])("%s", async (_, different) => {
    await isRefused(byModel([itemFor(candidates[1]!, 2), item(different)]));
  });

  test("a finding twice", async () => {
    await isRefused(byModel([item({ headline: "One" }), item({ headline: "Another" }, 2)]));
  });

  test("a finding of another tenant, as it does one that is not there", async () => {
    const other = await database.addTenant();
    await costs.load(other.tenantId, THREE_FINDINGS);
    const foreign = await runs.running(other.tenantId);
    const [theirs] = await candidatesOf(other.tenantId, foreign);
    await isRefused(byModel([itemFor(theirs!, 1)]));
    expect((await findings(other.tenantId))[0]).toMatchObject({ narrated_by: "template" });
  });

  test.each([
    ["a digit in the summary", "You could save $1,826.25."],
    ["a slot in the summary, which nobody would fill", "{{service}} stands out."],
  ])("%s", async (_, summary) => {
    await isRefused(byModel([], summary));
  });

  test("items with the template: whose words would they be?", async () => {
    await isRefused({ ...BY_TEMPLATE, items: [item()] });
  });

  // What only a bug of the shell can send has no name of its own, and does as little.
  test.each<[string, unknown]>([
    ["items that are no list", byModel({ finding_id: randomUUID() })],
    ["items that are text", byModel("none")],
    ["an item that is no object", byModel([1])],
    ["a finding that is no id", byModel([{ finding_id: "c1", rank: 1, headline: "a", why: "b" }])],
    ["a rank that is no number", byModel([{ finding_id: randomUUID(), rank: "first", headline: "a" }])],
    ["caveats that are no list", byModel([{ finding_id: randomUUID(), rank: 1, caveats: "none" }])],
    ["a narrator that is unknown", { ...BY_TEMPLATE, narrated_by: "oracle" }],
    ["no narrator", { fallback_reason: "no_price", items: [] }],
    ["a template without a reason", { narrated_by: "template", fallback_reason: null, items: [] }],
    ["a model with a reason for the template", { ...byModel([]), fallback_reason: "llm_timeout" }],
    ["a reason of a thousand characters", { ...BY_TEMPLATE, fallback_reason: "x".repeat(1_000) }],
    ["nothing", null],
    ["a list", []],
  ])("%s", async (_, result) => {
    const before = await findings(tenantId);
    await expect(complete(result)).rejects.toThrow();
    expect(await findings(tenantId)).toEqual(before);
    expect(await runs.row(runId)).toMatchObject({ state: "RUNNING", result: null });
  });
});
