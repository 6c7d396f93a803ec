// sql/app_private/detect_cost_anomaly.sql and cost_anomaly_days.sql, against days counted by hand.
import { describe, expect, test } from "vitest";
import type { Row } from "../support/contract.ts";
import { type Cells, costsOf, dayAfter, usage } from "../support/costs.ts";
import { testDatabase } from "../support/database.ts";

const database = testDatabase();
const costs = costsOf(database);

/** A Sunday; the data end here unless a test says otherwise. Wednesday is four days before. */
const LAST = "2024-11-17";
const WEDNESDAY = dayAfter(LAST, -4);
const DAYS = 75;

const isWeekend = (day: string) => [0, 6].includes(new Date(day).getUTCDay());

/** A line for each day up to `last` that costs something. */
function series(
  cost: (day: string) => number,
  cells: Cells = {},
  { days = DAYS, last = LAST } = {},
): Cells[] {
  return Array.from({ length: days }, (_, index) => dayAfter(last, index - days + 1))
    .filter((day) => cost(day) !== 0)
    .map((day) => usage(day, cost(day), cells));
}

/** 100 a day, and something else on some days. */
const steady = (other: Record<string, number> = {}) => series((day) => other[day] ?? 100);

async function detect(lines: Cells[]): Promise<Row[]> {
  const { tenantId } = await database.addTenant();
  await costs.load(tenantId, lines);
  return found(tenantId);
}

async function found(tenantId: string): Promise<Row[]> {
  const { rows } = await database.superuser.query(
    "select * from app_private.detect_cost_anomaly($1) order by evidence ->> 'first_day', currency",
    [tenantId],
  );
  return rows;
}

describe("it finds", () => {
  test("a spike: its excess is told, and that is no saving", async () => {
    const [finding, ...more] = await detect(steady({ [WEDNESDAY]: 200 }));
    expect(more).toEqual([]);
    expect(finding).toMatchObject({
      detector: "cost_anomaly",
      scope: {
        provider: "AWS",
        sub_account: "111",
        sub_account_name: "web",
        service: "EC2",
        region: "eu-west-1",
      },
      severity: "low",
      currency: "USD",
      amount: "100",
      monthly_saving: null,
      saving_basis: null,
      confidence: "high", // z = 100 / (1.4826 x 6.7) = 10.1
      remediation_code: "explain_spike",
      evidence: {
        first_day: WEDNESDAY,
        last_day: WEDNESDAY,
        flagged_days: 1,
        running: false,
        baseline_per_day: 100,
        cost_per_day: 200,
        excess: 100,
        z: 10.1,
        until: LAST,
      },
      slots: {
        service: "EC2",
        sub_account: "web",
        excess: "100.00 USD",
        days: "1 day",
        first_day: "13 Nov 2024",
      },
    });
    expect(finding!["slots"]).not.toHaveProperty("monthly_saving");
  });

  test("a shift that stands: a month of its excess per day is the saving, modelled", async () => {
    const shifted = Object.fromEntries([0, 1, 2, 3, 4].map((days) => [dayAfter(WEDNESDAY, days), 160]));
    const [finding, ...more] = await detect(steady(shifted));
    expect(more).toEqual([]);
    expect(finding).toMatchObject({
      monthly_saving: String(60 * 30.4375), // 1,826.25
      saving_basis: "modelled",
      severity: "medium",
      amount: "300",
      remediation_code: "investigate_running_increase",
      evidence: { first_day: WEDNESDAY, last_day: LAST, flagged_days: 5, running: true, excess: 300 },
      slots: { excess_per_day: "60.00 USD", monthly_saving: "1,826.25 USD", days: "5 days" },
    });
    expect(finding!["evidence"]).toHaveProperty("assumption");
  });

  test("one that has gone back has no saving, though it lasted", async () => {
    const past = Object.fromEntries([0, 1, 2].map((days) => [dayAfter(WEDNESDAY, days - 2), 160])); // Monday to Wednesday
    const [finding] = await detect(steady(past));
    expect(finding).toMatchObject({
      monthly_saving: null,
      amount: "180",
      evidence: { flagged_days: 3, running: false },
    });
  });

  test("two days are no shift yet", async () => {
    const [finding] = await detect(steady({ [dayAfter(LAST, -1)]: 160, [LAST]: 160 }));
    expect(finding).toMatchObject({ monthly_saving: null, evidence: { flagged_days: 2, running: false } });
  });

  test("days with a gap of two are one anomaly, with a gap of three they are two", async () => {
    const day = (days: number) => dayAfter(LAST, days);
    const one = await detect(steady({ [day(-20)]: 200, [day(-17)]: 200 }));
    expect(one.map((each) => each["evidence"]["flagged_days"])).toEqual([2]);
    const two = await detect(steady({ [day(-21)]: 200, [day(-17)]: 200 }));
    expect(two.map((each) => each["evidence"]["first_day"])).toEqual([day(-21), day(-17)]);
  });

  test("a weekend that costs as much as a weekday", async () => {
    const lines = series((day) => (day === LAST ? 100 : isWeekend(day) ? 20 : 100));
    const [finding, ...more] = await detect(lines);
    expect(more).toEqual([]);
    expect(finding).toMatchObject({ amount: "80", evidence: { first_day: LAST, baseline_per_day: 20 } });
  });

  test("what comes after days without a line: they cost nothing, so that is the baseline", async () => {
    const lines = [
      ...steady(), // so that the data have an end
      ...series((day) => (new Date(day).getUTCDay() === 3 ? 50 : 0), { service_name: "Monthly backup" }),
    ];
    const mine = (await detect(lines)).filter((each) => each["scope"]["service"] === "Monthly backup");
    expect(mine.at(-1)).toMatchObject({
      amount: "50",
      evidence: { first_day: WEDNESDAY, baseline_per_day: 0 },
    });
  });
});

describe("at its limits", () => {
  test.each([
    // 4 x 1.4826 x 6.7 % of 100 is 39.73; 25 % would be 25, the least money 5.
    ["just below z = 4", 100, 139.7, 0],
    ["just above z = 4", 100, 139.8, 1],
    // 4 x 1.4826 x 6.7 % of 10 is 3.97, but 5 units of money is the least.
    ["just below the least money", 10, 14.99, 0],
    ["just at the least money", 10, 15, 1],
  ])("%s", async (_, usual, cost, count) => {
    expect(await detect(series((day) => (day === WEDNESDAY ? cost : usual)))).toHaveLength(count);
  });

  test("noise widens what is usual: the deviation counts where it is more than 6.7 percent", async () => {
    // Weekdays go 80, 90, …, 120 and round again: the median is 100, and so is no day further from it than 20; MAD 10.
    const noise = (day: string) => 80 + 10 * (Math.floor(Date.parse(day) / 86_400_000) % 5);
    const at = (cost: number) => detect(series((day) => (day === WEDNESDAY ? cost : noise(day))));
    expect(await at(150)).toEqual([]); // 4 x 1.4826 x 10 = 59.3
    expect(await at(165)).toMatchObject([{ confidence: "medium" }]);
  });

  test.each([
    [5, 0],
    [6, 1],
  ])("after %i weekdays of history a spike makes %i findings", async (weekdays, count) => {
    // Two more days of history on the weekend between: they are another class.
    const days = weekdays + 2 + 1;
    const lines = [
      ...steady(),
      ...series((day) => (day === WEDNESDAY ? 500 : 50), { service_name: "New" }, { days, last: WEDNESDAY }),
    ];
    const mine = (await detect(lines)).filter((each) => each["scope"]["service"] === "New");
    expect(mine).toHaveLength(count);
  });

  test("a spike of a month ago is no news", async () => {
    expect(await detect(steady({ [dayAfter(LAST, -29)]: 300 }))).toHaveLength(1);
    expect(await detect(steady({ [dayAfter(LAST, -30)]: 300 }))).toEqual([]);
  });
});

describe("it is silent on", () => {
  test("a week that is like every week", async () => {
    expect(await detect(series((day) => (isWeekend(day) ? 20 : 100)))).toEqual([]);
  });

  test("a day that cost less", async () => {
    expect(await detect(steady({ [WEDNESDAY]: 1 }))).toEqual([]);
  });

  test("corrections, purchases, tax, credits and adjustments", async () => {
    const others: Cells[] = [
      { charge_class: "Correction" },
      ...["Purchase", "Tax", "Credit", "Adjustment"].map((charge_category) => ({ charge_category })),
    ];
    expect(await detect([...steady(), ...others.map((cells) => usage(WEDNESDAY, 5_000, cells))])).toEqual([]);
  });

  test("a new service, of which nothing usual is known", async () => {
    const lines = [...steady(), ...series(() => 1_000, { service_name: "New" }, { days: 5 })];
    expect(await detect(lines)).toEqual([]);
  });

  test("what billed cost does: effective cost is what counts", async () => {
    expect(
      await detect(
        series(() => 100).map((line) => ({
          ...line,
          ...(line["charge_period_start"] === WEDNESDAY ? { billed_cost: 9_000 } : {}),
        })),
      ),
    ).toEqual([]);
  });

  test("a tenant without costs", async () => {
    const { tenantId } = await database.addTenant();
    expect(await found(tenantId)).toEqual([]);
  });
});

describe("it keeps apart", () => {
  test("two currencies: a sum of both would be neither", async () => {
    const euro = { billing_currency: "EUR", billing_account_id: "eu" };
    const findings = await detect([...steady(), ...series((day) => (day === WEDNESDAY ? 200 : 100), euro)]);
    expect(findings).toMatchObject([{ currency: "EUR", amount: "100", slots: { cost: "200.00 EUR" } }]);
  });

  test.each<[string, Cells]>([
    ["provider", { provider_name: "Azure" }],
    ["sub-account", { sub_account_id: "222" }],
    ["service", { service_name: "S3" }],
    ["region", { region_id: "us-east-1" }],
    ["no region", { region_id: null }],
    ["no sub-account", { sub_account_id: null, sub_account_name: null }],
  ])("another %s", async (_, cells) => {
    // A spike of one hides behind a fall of the other when they are added.
    const findings = await detect([
      ...steady({ [WEDNESDAY]: 200 }),
      ...series((day) => (day === WEDNESDAY ? 0 : 100), cells),
    ]);
    expect(findings).toMatchObject([
      { amount: "100", scope: { service: "EC2", sub_account: "111", region: "eu-west-1" } },
    ]);
  });

  test("series whose names only read alike when they are put together", async () => {
    const alike = (cells: Cells) =>
      series((day) => (day === WEDNESDAY ? 200 : 100), { sub_account_name: null, ...cells });
    const findings = await detect([
      ...alike({ sub_account_id: "x", service_name: null }),
      ...alike({ sub_account_id: null, service_name: "x" }),
      ...alike({ sub_account_id: "a:b", service_name: "c" }),
      ...alike({ sub_account_id: "a", service_name: "b:c" }),
    ]);
    expect(new Set(findings.map((each) => each["fingerprint"])).size).toBe(4);
  });
});

describe("it can be trusted", () => {
  test("where lines are doubtful the confidence is low", async () => {
    const twice = [usage(WEDNESDAY, 100, { sku_id: "same" }), usage(WEDNESDAY, 100, { sku_id: "same" })];
    const [finding] = await detect([...steady({ [WEDNESDAY]: 0 }), ...twice]);
    expect(finding).toMatchObject({ amount: "100", confidence: "low" });
  });

  test("one line of a day to come does not end what is known of today", async () => {
    const far = usage("2099-01-01", 1, {
      billing_period_start: "2024-11-01",
      billing_period_end: "2024-12-01",
    });
    const findings = await detect([...steady({ [WEDNESDAY]: 200 }), far]);
    expect(findings).toMatchObject([{ amount: "100", evidence: { first_day: WEDNESDAY } }]);
  });

  test("another provider whose data end earlier keeps its own last day", async () => {
    const until = dayAfter(LAST, -6);
    const shift = (day: string) => (day > dayAfter(until, -5) ? 160 : 100);
    const findings = await detect([
      ...steady(),
      ...series(shift, { provider_name: "Azure" }, { last: until }),
    ]);
    expect(findings).toMatchObject([{ scope: { provider: "Azure" }, evidence: { running: true, until } }]);
  });

  test("a provider that is billed no more has nothing that still costs too much", async () => {
    const until = dayAfter(LAST, -35);
    const shift = (day: string) => (day > dayAfter(until, -5) ? 160 : 100);
    expect(
      await detect([...steady(), ...series(shift, { provider_name: "Azure" }, { last: until })]),
    ).toEqual([]);
  });

  test("it is the same finding from day to day, though the days that are looked at move on", async () => {
    const { tenantId } = await database.addTenant();
    const begin = "2024-09-18";
    const fingerprints = new Set<string>();
    for (const days of [5, 12, 25, 33, 36]) {
      const last = dayAfter(begin, days);
      await costs.load(
        tenantId,
        series((day) => (day >= begin && day <= dayAfter(begin, 20) ? 160 : 100), {}, { days: 120, last }),
      );
      const findings = await found(tenantId);
      expect(findings, `until ${last}`).toHaveLength(1);
      fingerprints.add(findings[0]!["fingerprint"]);
    }
    expect(fingerprints.size).toBe(1);
  });

  test("it sees what is published, of its own tenant alone", async () => {
    const { tenantId } = await database.addTenant();
    const importId = await costs.start(tenantId);
    await costs.add(tenantId, importId, steady({ [WEDNESDAY]: 200 }));
    await costs.rollUp(tenantId, importId);
    expect(await found(tenantId)).toEqual([]);
    await costs.publish(tenantId, importId);
    expect(await found(tenantId)).toHaveLength(1);
    expect(await found((await database.addTenant()).tenantId)).toEqual([]);
  });
});
