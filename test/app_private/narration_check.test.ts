// sql/app_private/narration_check.sql and analysis_apply.sql: the words of a model, and what SQL takes of them.
import { randomUUID } from "node:crypto";
import { beforeEach, describe, expect, test } from "vitest";
import { type Row, refusal } from "../support/contract.ts";
import { testDatabase } from "../support/database.ts";
import { analysesOf, BY_TEMPLATE, byModel, type Item, itemFor, THREE_FINDINGS } from "../support/findings.ts";

const database = testDatabase();
const { costs, runs, detect, findings, list } = analysesOf(database);
let tenantId = "";
let runId = "";
let candidates: Row[] = [];

beforeEach(async () => {
  if (tenantId === "") {
    ({ tenantId } = await database.addTenant());
    await costs.load(tenantId, THREE_FINDINGS);
  }
  runId = await runs.running(tenantId);
  candidates = await detect(tenantId, runId);
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

  test("words for what a later run has found again: they are dropped, and the run completes", async () => {
    const later = await runs.running(tenantId);
    await detect(tenantId, later);
    expect(await complete(byModel([item({ headline: "Too late" })]))).toBe("COMPLETED");
    expect((await findings(tenantId)).map((each) => each["headline"])).not.toContain("Too late");
    expect(await runs.complete(tenantId, later, 1, byModel([item({ headline: "In time" })]))).toBe(
      "COMPLETED",
    );
    expect((await findings(tenantId))[0]).toMatchObject({ headline: "In time" });
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
    const [theirs] = await detect(other.tenantId, foreign);
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
