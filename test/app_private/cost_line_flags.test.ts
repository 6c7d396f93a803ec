// sql/app_private/cost_line_flags.sql and cost_import_flag.sql: what is doubtful about a line is said, and the line kept.
import { beforeAll, describe, expect, test } from "vitest";
import { type Cells, costsOf, usage } from "../support/costs.ts";
import { testDatabase } from "../support/database.ts";

const database = testDatabase();
const costs = costsOf(database);
let tenantId = "";

beforeAll(async () => {
  ({ tenantId } = await database.addTenant());
});

/** The flags of each line, by its place; and the answer of the publication. */
async function flagsOf(lines: Cells[]): Promise<{ flags: string[][]; told: Record<string, unknown> }> {
  const importId = await costs.start(tenantId);
  await costs.add(tenantId, importId, lines);
  await costs.rollUp(tenantId, importId);
  const told = await costs.publish(tenantId, importId);
  const { rows } = await database.superuser.query(
    "select dq_flags from app.cost_lines where import_id = $1 order by line_no",
    [importId],
  );
  return { flags: rows.map((row) => row.dq_flags), told };
}

const DAY = "2026-10-10";

describe("one line", () => {
  test.each<[string, Cells]>([
    ["usage", {}],
    ["a purchase", { charge_category: "Purchase" }],
    [
      "tax without quantity or price",
      { charge_category: "Tax", pricing_quantity: null, list_unit_price: null, consumed_quantity: null },
    ],
    [
      "a credit",
      {
        charge_category: "Credit",
        billed_cost: -5,
        effective_cost: -5,
        list_cost: -5,
        contracted_cost: -5,
        list_unit_price: null,
        pricing_quantity: null,
      },
    ],
    ["an unused commitment", { commitment_discount_status: "Unused", consumed_quantity: null }],
    ["a rounding of a cent", { list_cost: 10.01, list_unit_price: 10 }],
    [
      "the first moment of the billing period",
      { charge_period_start: "2026-10-01", charge_period_end: "2026-10-02" },
    ],
  ])("%s is sound", async (_, cells) => {
    expect((await flagsOf([usage(DAY, 10, cells)])).flags).toEqual([[]]);
  });

  test.each<[string, Cells]>([
    ["missing_provider", { provider_name: null }],
    ["missing_contracted_cost", { contracted_cost: 0 }],
    ["missing_list_cost", { list_cost: 0, list_unit_price: 0 }],
    ["list_lt_contracted", { list_cost: 9, list_unit_price: 9 }],
    ["contracted_lt_effective", { contracted_cost: 9 }],
    ["missing_list_unit_price", { list_unit_price: null }],
    ["missing_pricing_quantity", { pricing_quantity: null }],
    ["missing_pricing_quantity", { charge_category: "Purchase", pricing_quantity: null }],
    ["missing_consumed_quantity", { consumed_quantity: null }],
    ["invalid_effective_cost", { charge_category: "Purchase", commitment_discount_id: "ri" }],
    ["effective_zero_billed_positive", { effective_cost: 0 }],
    ["list_ne_price_x_quantity", { list_cost: 10.02, list_unit_price: 10 }],
    ["bad_period", { charge_period_start: "2026-09-30" }],
    ["bad_period", { charge_period_start: "2026-11-01", charge_period_end: "2026-11-02" }],
    ["from_the_reader", { reader_flags: "{from_the_reader}" }],
  ])("%s", async (flag, cells) => {
    const { flags, told } = await flagsOf([usage(DAY, 10, cells)]);
    expect(flags).toEqual([[flag]]);
    expect(told).toMatchObject({ line_count: "1", flagged_count: "1", flags: { [flag]: 1 } });
  });

  test("a line may have many flags, and counts once", async () => {
    const { flags, told } = await flagsOf([
      usage(DAY, 10),
      usage(DAY, 10, { provider_name: null, consumed_quantity: null, reader_flags: "{tag_json_invalid}" }),
      usage(DAY, 10, { provider_name: null }),
    ]);
    expect(flags[1]!.sort()).toEqual(["missing_consumed_quantity", "missing_provider", "tag_json_invalid"]);
    expect(told).toMatchObject({
      line_count: "3",
      flagged_count: "2",
      flags: { missing_provider: 2, missing_consumed_quantity: 1, tag_json_invalid: 1 },
    });
  });
});

describe("duplicate_line", () => {
  const same: Cells = { sku_id: "s", resource_id: "i-1", tags: '{"owner": "a"}' };

  test("the same charge twice or more, every copy", async () => {
    const { flags, told } = await flagsOf([
      usage(DAY, 10, same),
      usage(DAY, 11, same),
      usage(DAY, 10, same),
      usage(DAY, 10, same),
    ]);
    expect(flags).toEqual([["duplicate_line"], [], ["duplicate_line"], ["duplicate_line"]]);
    expect(told).toMatchObject({ flagged_count: "3", flags: { duplicate_line: 3 } });
  });

  test("copies whose cells are empty", async () => {
    const empty: Cells = {
      sku_id: null,
      resource_id: null,
      sub_account_id: null,
      region_id: null,
      charge_category: "Tax",
    };
    expect((await flagsOf([usage(DAY, 10, empty), usage(DAY, 10, empty)])).flags).toEqual([
      ["duplicate_line"],
      ["duplicate_line"],
    ]);
  });

  test.each<[string, Cells]>([
    ["another resource", { resource_id: "i-2" }],
    ["another hour", { charge_period_start: `${DAY} 01:00`, charge_period_end: `${DAY} 02:00` }],
    ["another article", { sku_id: "t" }],
    ["other tags", { tags: '{"owner": "b"}' }],
    ["another quantity", { consumed_quantity: 2 }],
    ["another service", { service_name: "S3" }],
    ["another provider", { provider_name: "Azure" }],
    ["another billing account", { billing_account_id: "payer 2" }],
  ])("not where there is %s", async (_, different) => {
    expect((await flagsOf([usage(DAY, 10, same), usage(DAY, 10, { ...same, ...different })])).flags).toEqual([
      [],
      [],
    ]);
  });
});

describe("mixed_currency", () => {
  test("two currencies in one billing account, every line of it and of no other", async () => {
    const { flags } = await flagsOf([
      usage(DAY, 10),
      usage(DAY, 11, { billing_currency: "EUR" }),
      usage(DAY, 12, { billing_account_id: "other", billing_currency: "GBP" }),
    ]);
    expect(flags).toEqual([["mixed_currency"], ["mixed_currency"], []]);
  });

  test("among lines that name no account, too", async () => {
    const { flags } = await flagsOf([
      usage(DAY, 10, { billing_account_id: null }),
      usage(DAY, 11, { billing_account_id: null, billing_currency: "EUR" }),
    ]);
    expect(flags).toEqual([["mixed_currency"], ["mixed_currency"]]);
  });
});

test("the roll-up counts flagged lines, and those of them whose cost is in doubt", async () => {
  await flagsOf([
    usage(DAY, 10),
    usage(DAY, 10, { provider_name: "AWS", list_unit_price: null }),
    usage(DAY, 0, { billed_cost: 5, list_cost: 0 }),
  ]);
  const { rows } = await database.superuser.query(
    "select line_count, flagged_count, doubtful_count from app.cost_daily_current where tenant_id = $1 and day = $2",
    [tenantId, DAY],
  );
  expect(rows).toEqual([{ line_count: 3, flagged_count: 2, doubtful_count: 1 }]);
});
