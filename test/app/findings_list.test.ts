// sql/app/findings_list.sql: what was found, as people read it.
import { beforeAll, describe, expect, test } from "vitest";
import { refusal, strangerIsRefused } from "../support/contract.ts";
import { testDatabase } from "../support/database.ts";
import { analysesOf, byModel, costOf, itemFor, THREE_FINDINGS } from "../support/findings.ts";

const database = testDatabase();
const { costs, runs, candidates: candidatesOf, analyse, findings, list } = analysesOf(database);
let tenantId = "";

beforeAll(async () => {
  ({ tenantId } = await database.addTenant());
  await costs.load(tenantId, THREE_FINDINGS);
  await analyse(tenantId);
});

describe("it works", () => {
  test("best first, in words whose numbers are filled in", async () => {
    const listed = await list(tenantId);
    expect(listed.map((each) => each["rank"])).toEqual([1, 2, 3]);
    expect(listed[0]).toMatchObject({
      detector: "cost_anomaly",
      severity: "medium",
      finding_state: "open",
      currency: "USD",
      monthly_saving: String(60 * 30.4375),
      saving_basis: "modelled",
      headline: "EC2 has cost 60.00 USD a day too much since 14 Nov 2024",
      why: expect.stringMatching(
        /^In web, eu-west-1, it costs 160.00 USD a day where 100.00 USD was usual.*1,826.25 USD\.$/,
      ),
      caveats: [],
      narrated_by: "template",
      scope: { service: "EC2" },
      evidence: { excess: 240 },
      occurrences: 1,
    });
    expect(listed[1]).toMatchObject({
      monthly_saving: null,
      headline: "S3 cost 1,000.00 USD more than usual around 11 Nov 2024",
    });
    expect(listed[2]).toMatchObject({ headline: '600.00 USD of spend has no tag "owner"' });
    for (const each of listed) expect(`${each["headline"]} ${each["why"]}`).not.toMatch(/[{}]/);
  });

  test("page by page, nothing twice and nothing left out", async () => {
    const all = await list(tenantId);
    const pages = [
      await list(tenantId, { maxRows: 2 }),
      await list(tenantId, { maxRows: 2, afterRank: 2 }),
      await list(tenantId, { maxRows: 2, afterRank: 3 }),
    ];
    expect(pages.map((page) => page.length)).toEqual([2, 1, 0]);
    expect(pages.flat()).toEqual(all);
  });

  test("so too where findings of many runs have the same rank", async () => {
    const { tenantId: old } = await database.addTenant();
    for (const service of ["a", "b", "c"]) {
      await costs.load(old, costOf(service, 100, { 6: 500 }));
      await analyse(old); // the one before is resolved, and was the first of its run too
    }
    const all = await list(old, { state: "resolved" });
    expect(all).toHaveLength(2);
    const paged = [];
    for (let last = 0, page = await list(old, { state: "resolved", maxRows: 1 }); page.length > 0; ) {
      paged.push(...page);
      last = page.at(-1)!["rank"];
      page = await list(old, { state: "resolved", maxRows: 1, afterRank: last });
    }
    expect(paged).toEqual(all);
  });

  test("after a model has put another first", async () => {
    const { tenantId: worded } = await database.addTenant();
    await costs.load(worded, THREE_FINDINGS);
    const runId = await runs.running(worded);
    const candidates = await candidatesOf(worded, runId);
    await runs.complete(worded, runId, 1, byModel([itemFor(candidates[2]!, 1, { headline: "Tag {{tag}}" })]));
    expect((await list(worded)).map((each) => [each["rank"], each["narrated_by"]])).toEqual([
      [1, "model"],
      [2, "template"],
      [3, "template"],
    ]);
    expect((await list(worded, { maxRows: 1 }))[0]).toMatchObject({ headline: "Tag owner" });
  });

  test("by state", async () => {
    const [, second] = await findings(tenantId);
    await database.superuser.query("update app.findings set state = 'dismissed' where id = $1", [
      second!["id"],
    ]);
    expect((await list(tenantId)).map((each) => each["detector"])).toEqual([
      "cost_anomaly",
      "untagged_spend",
    ]);
    expect(await list(tenantId, { state: "dismissed" })).toMatchObject([
      { id: second!["id"], finding_state: "dismissed" },
    ]);
    expect(await list(tenantId, { state: "snoozed" })).toEqual([]);
    await database.superuser.query("update app.findings set state = 'open' where id = $1", [second!["id"]]);
  });
});

describe("it refuses", () => {
  test.each([
    ["a state that does not exist", { state: "closed" }],
    ["no state", { state: null }],
    ["no row", { maxRows: 0 }],
    ["a negative count", { maxRows: -1 }],
    ["more than 200 rows", { maxRows: 201 }],
    ["rows without a bound", { maxRows: null }],
    ["a page after nothing", { afterRank: null }],
  ])("%s", async (_, options) => {
    expect((await refusal(list(tenantId, options), "argument_invalid")).status).toBe(400);
  });
});

test("a stranger gets nothing, and sees only its own", async () => {
  const stranger = await strangerIsRefused(
    database,
    database.service,
    tenantId,
    "select * from app.findings_list($1, $2)",
  );
  expect(await list(stranger.tenantId)).toEqual([]);
});
