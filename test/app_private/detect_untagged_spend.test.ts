// sql/app_private/detect_untagged_spend.sql, against sums made by hand.
import { describe, expect, test } from "vitest";
import type { Row } from "../support/contract.ts";
import { type Cells, costsOf, dayAfter, usage } from "../support/costs.ts";
import { testDatabase } from "../support/database.ts";

const database = testDatabase();
const costs = costsOf(database);

const LAST = "2024-11-17";
const ALL = JSON.stringify({ environment: "prod", owner: "a", cost_center: "7" });

async function detect(lines: Cells[], requiredTags?: string[]): Promise<Row[]> {
  const { tenantId } = await database.addTenant();
  if (requiredTags !== undefined) {
    await database.superuser.query("update app.tenants set required_tags = $2 where tenant_id = $1", [
      tenantId,
      requiredTags,
    ]);
  }
  await costs.load(tenantId, lines);
  const { rows } = await database.superuser.query(
    "select * from app_private.detect_untagged_spend($1) order by currency, scope ->> 'tag'",
    [tenantId],
  );
  return rows;
}

/** Lines of 10 dollars on the last day with these tags. */
const tagged = (tags: string | null, count = 1, cells: Cells = {}) =>
  Array.from({ length: count }, () => usage(LAST, 10, { tags, ...cells }));

describe("it finds", () => {
  test("what lacks a required tag, tag by tag", async () => {
    const findings = await detect([
      ...tagged(ALL, 6),
      ...tagged('{"environment": "prod", "owner": "a"}', 3, { service_name: "S3" }),
      ...tagged(null, 1),
    ]);
    expect(findings.map((each) => [each["scope"]["tag"], each["amount"]])).toEqual([
      ["cost_center", "40"],
      ["environment", "10"],
      ["owner", "10"],
    ]);
    expect(findings[0]).toMatchObject({
      detector: "untagged_spend",
      severity: "info", // a tenth of 40
      currency: "USD",
      monthly_saving: null,
      saving_basis: null,
      confidence: "high",
      remediation_code: "tag_resources",
      evidence: {
        days: 30,
        until: LAST,
        effective_cost: 100,
        untagged_cost: 40,
        untagged_lines: 4,
        coverage: 0.6,
      },
      slots: {
        tag: "cost_center",
        untagged: "40.00 USD",
        total: "100.00 USD",
        untagged_share: "40 %",
        service: "S3",
        window: expect.stringMatching(/^30 days to \d{1,2} \w{3} \d{4}$/),
      },
    });
  });

  test.each([
    ["absent", "{}"],
    ["empty", '{"owner": ""}'],
    ["null", '{"owner": null}'],
    ["of another case", '{"Owner": "a"}'],
    ["in a list, which is no set of tags", '["owner"]'],
  ])("a tag that is %s", async (_, tags) => {
    expect(await detect(tagged(tags), ["owner"])).toMatchObject([{ scope: { tag: "owner" }, amount: "10" }]);
  });

  test("each currency by itself", async () => {
    const findings = await detect(
      [...tagged(null, 2), ...tagged(null, 1, { billing_currency: "EUR", billing_account_id: "eu" })],
      ["owner"],
    );
    expect(findings.map((each) => [each["currency"], each["amount"]])).toEqual([
      ["EUR", "10"],
      ["USD", "20"],
    ]);
    expect(new Set(findings.map((each) => each["fingerprint"])).size).toBe(2);
  });

  test("the last thirty days of data", async () => {
    const lines = [usage(LAST, 10), usage(dayAfter(LAST, -29), 100), usage(dayAfter(LAST, -30), 1_000)];
    expect(await detect(lines, ["owner"])).toMatchObject([{ amount: "110", evidence: { until: LAST } }]);
  });
});

describe("at its limits", () => {
  test.each([
    ["just below the least money", 4.99, 0],
    ["at the least money", 5, 1],
  ])("%s", async (_, cost, count) => {
    expect(await detect([usage(LAST, cost)], ["owner"])).toHaveLength(count);
  });

  test.each([
    ["just below five percent", 191, 0],
    ["at five percent", 190, 1],
  ])("%s", async (_, rest, count) => {
    expect(await detect([usage(LAST, 10), usage(LAST, rest, { tags: ALL })], ["owner"])).toHaveLength(count);
  });
});

describe("it is silent on", () => {
  test("spend that has every tag", async () => {
    expect(await detect(tagged(ALL, 10))).toEqual([]);
  });

  test("corrections, purchases, tax, credits and adjustments", async () => {
    const others: Cells[] = [
      { charge_class: "Correction" },
      ...["Purchase", "Tax", "Credit", "Adjustment"].map((charge_category) => ({ charge_category })),
    ];
    expect(await detect([...tagged(ALL), ...others.map((cells) => usage(LAST, 500, cells))])).toEqual([]);
  });

  test("a tenant that requires no tag, or has no costs", async () => {
    expect(await detect(tagged(null), [])).toEqual([]);
    const { tenantId } = await database.addTenant();
    expect(
      (await database.superuser.query("select * from app_private.detect_untagged_spend($1)", [tenantId]))
        .rows,
    ).toEqual([]);
  });

  test("spend that credits have made less than nothing", async () => {
    expect(await detect([usage(LAST, 10), usage(LAST, -20, { tags: ALL })], ["owner"])).toEqual([]);
  });
});

describe("it can be trusted", () => {
  test("a tag that is required twice is one tag: its money is counted once", async () => {
    expect(await detect(tagged(null, 2), ["owner", "owner"])).toMatchObject([
      { amount: "20", evidence: { untagged_lines: 2 } },
    ]);
  });

  test("where more than one line in twenty is doubtful the confidence is low", async () => {
    const doubtful = usage(LAST, 0, { billed_cost: 1 });
    expect(await detect([...tagged(null, 20), doubtful], ["owner"])).toMatchObject([{ confidence: "high" }]);
    expect(await detect([...tagged(null, 18), doubtful], ["owner"])).toMatchObject([{ confidence: "low" }]);
  });

  test("one line of a day to come does not hide the others", async () => {
    const far = usage("2099-01-01", 1, {
      billing_period_start: "2024-11-01",
      billing_period_end: "2024-12-01",
      tags: ALL,
    });
    expect(await detect([...tagged(null, 2), far], ["owner"])).toMatchObject([
      { amount: "20", evidence: { until: LAST } },
    ]);
  });

  test("names of the bill and of the tag cannot make slots, lines or cells of their own", async () => {
    const findings = await detect(tagged(null, 1, { service_name: "{{untagged}}\n; x | y" }), ["own{{er}}"]);
    const { slots } = findings[0] as { slots: Record<string, string> };
    for (const text of Object.values(slots)) expect(text).not.toMatch(/[{}\n;|]/);
  });
});
