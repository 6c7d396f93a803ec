import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gunzipSync } from "node:zlib";
import { parse } from "csv-parse/sync";
import { afterAll, describe, expect, test } from "vitest";
import { readFocus } from "../src/focus.ts";
import { type Sample, sampleTenants, writeSample } from "../src/sample.ts";

const LAST_DAY = new Date("2025-11-20T10:30:00Z");
const directory = mkdtempSync(join(tmpdir(), "sample-"));
afterAll(() => rmSync(directory, { recursive: true }));

const tenants = sampleTenants(LAST_DAY);
const samples: Sample[] = [];
for (const tenant of tenants) samples.push(await writeSample(tenant, directory));

type Line = Record<string, string>;
const bills = samples.map(({ path }) => parse(unpacked(path), { columns: true }) as Line[]);
const usage = bills.map((lines) => lines.filter(isUsage));

describe("the sample tenants", () => {
  test("are five on all three tiers, in different time zones, one of them without a budget, one paying in euro", () => {
    expect(tenants).toHaveLength(5);
    expect(new Set(tenants.map(({ tier }) => tier))).toEqual(new Set(["HIGH_VALUE", "ACTIVE", "DORMANT"]));
    expect(new Set(tenants.map(({ timeZone }) => timeZone)).size).toBe(5);
    expect(
      tenants.filter(({ monthlyBudgetUsd }) => monthlyBudgetUsd === "0").map(({ name }) => name),
    ).toEqual(["Zero Budget GmbH"]);
    expect(tenants.map(({ currency }) => currency).sort()).toEqual(["EUR", "USD", "USD", "USD", "USD"]);
    for (const { timeZone } of tenants)
      expect(() => new Intl.DateTimeFormat("en", { timeZone })).not.toThrow();
  });

  test("get their bills as CSV, one of them packed", () => {
    expect(samples.filter(({ path }) => path.endsWith(".gz"))).toHaveLength(1);
  });
});

describe("a sample bill", () => {
  test("is the same byte for byte each time, and another on another day", async () => {
    for (const [index, tenant] of tenants.entries()) {
      const before = readFileSync(samples[index]!.path);
      expect(readFileSync((await writeSample(tenant, directory)).path).equals(before)).toBe(true);
    }
    const [tenant] = sampleTenants(new Date("2025-11-21T00:00:00Z"));
    const other = mkdtempSync(join(directory, "other-"));
    const moved = await writeSample(tenant!, other);
    expect(readFileSync(moved.path).equals(readFileSync(samples[0]!.path))).toBe(false);
  });

  test("is FOCUS that our reader takes whole, with the flags that only the reader sees", async () => {
    const seen = new Set<string>();
    for (const { path, rows } of samples) {
      let count = 0;
      for await (const batch of readFocus(path)) {
        count += batch.rows.length;
        for (const row of batch.rows) seen.add(/"\{(\w+)\}"\)$/.exec(row)?.[1] ?? "none");
      }
      expect(count).toBe(rows);
      expect(rows).toBeGreaterThan(4_500);
      expect(rows).toBeLessThan(8_500);
    }
    expect(seen).toEqual(new Set(["none", "availability_zone_not_a_zone"]));
  });

  test("has 120 days of usage of 40 to 70 resources, and between $3k and $120k a month", () => {
    for (const lines of usage) {
      const days = [...new Set(lines.map(dayOf))].sort();
      expect(days).toHaveLength(120);
      expect([days[0], days.at(-1)]).toEqual(["2025-07-23", "2025-11-19"]);
      const resources = new Set(lines.map((line) => line["ResourceId"]));
      expect(resources.size).toBeGreaterThanOrEqual(40);
      expect(resources.size).toBeLessThanOrEqual(70);
      const monthly = sum(lines, "EffectiveCost") / 4;
      expect(monthly).toBeGreaterThan(3_000);
      expect(monthly).toBeLessThan(120_000);
    }
  });

  test("shows the quirks of real exports", () => {
    const all = bills.flat();
    const some = (holds: (line: Line) => boolean) => expect(all.filter(holds).length).toBeGreaterThan(20);
    some((line) => line["Tags"] === "NULL");
    some((line) => line["Tags"] === "");
    some((line) => line["ProviderName"] === "Google Cloud" && line["ChargePeriodStart"]!.endsWith("+00:00"));
    some((line) => line["ProviderName"] === "Microsoft" && line["AvailabilityZone"] === "0.0208");
    some((line) => line["ChargeFrequency"] === "Usage-based");
    some((line) => Number(line["ContractedCost"]) === 0 && Number(line["EffectiveCost"]) > 0);
    some((line) => Number(line["EffectiveCost"]) === 0 && Number(line["BilledCost"]) > 0 && isUsage(line));
    some((line) => line["ListUnitPrice"]!.includes("E-"));
    some(
      (line) =>
        Math.abs(Number(line["ListCost"]) - Number(line["ListUnitPrice"]) * Number(line["PricingQuantity"])) >
        0.01,
    );
    some((line) => /" (environment|owner|cost_center)"/.test(line["Tags"]!));
    const kinds = new Set(all.flatMap((line) => [line["ChargeClass"], line["ChargeCategory"]]));
    for (const kind of ["Usage", "Purchase", "Tax", "Credit", "Correction"]) expect(kinds).toContain(kind);
  });

  test("adds up: list is at least contracted, and a commitment's fee is what its usage costs in that month", () => {
    for (const line of usage.flat()) {
      expect(Number(line["ListCost"]) - Number(line["ContractedCost"])).toBeGreaterThan(-1e-9);
    }
    for (const lines of bills) {
      const october = lines.filter(
        (line) => line["CommitmentDiscountId"]?.includes("/") && monthOf(line) === "2025-10",
      );
      const fee = sum(
        october.filter((line) => line["ChargeCategory"] === "Purchase"),
        "BilledCost",
      );
      const covered = october.filter((line) => line["ChargeCategory"] === "Usage");
      expect(sum(covered, "EffectiveCost")).toBeCloseTo(fee, 4);
      expect(sum(covered, "BilledCost")).toBe(0);
      expect(new Set(covered.map((line) => line["CommitmentDiscountStatus"])).size).toBe(fee > 0 ? 2 : 0);
    }
  });
});

describe("the planted truth", () => {
  test("has spikes, running shifts and untagged spend; one tenant has none of them", () => {
    expect(samples.filter(({ truth }) => truth.spikes.length > 0)).toHaveLength(4);
    expect(samples.filter(({ truth }) => truth.shifts.length > 0).length).toBeGreaterThanOrEqual(2);
    expect(samples.at(-1)?.truth).toEqual({ spikes: [], shifts: [], untagged: [] });
    const shares = samples.slice(0, 4).flatMap(({ truth }) => truth.untagged.map(({ share }) => share));
    expect(new Set(shares).size).toBe(shares.length);
  });

  test("a spike is a day of at least three times the usual, and at least 50 beyond it", () => {
    for (const [index, { truth }] of samples.entries()) {
      for (const { day, amount, ...place } of truth.spikes) {
        const daily = dailyOf(usage[index]!, place);
        const usual = median(classOf(daily, day, 42));
        expect(daily.get(day)! / usual).toBeGreaterThan(3);
        expect(amount).toBeGreaterThan(50);
        expect(daily.get(day)! - amount).toBeGreaterThan(usual * 0.6);
        expect(daily.get(day)! - amount).toBeLessThan(usual * 1.5);
      }
    }
  });

  test("a shift lasts from its day to the end", () => {
    for (const [index, { truth }] of samples.entries()) {
      for (const { fromDay, dailyAmount, ...place } of truth.shifts) {
        const daily = dailyOf(usage[index]!, place);
        const after = [...daily].filter(([day]) => day >= fromDay);
        const usual = median(
          [...daily]
            .filter(([day]) => day < fromDay)
            .slice(-42)
            .map(([, cost]) => cost),
        );
        expect(after.at(-1)?.[0]).toBe("2025-11-19");
        expect(median(after.map(([, cost]) => cost)) - usual).toBeGreaterThan(dailyAmount * 0.6);
      }
    }
  });

  test("an untagged amount is what the lines without the tag cost", () => {
    for (const [index, { truth }] of samples.entries()) {
      const total = sum(usage[index]!, "EffectiveCost");
      for (const tagKey of ["environment", "owner", "cost_center"]) {
        const amount = sum(
          usage[index]!.filter((line) => !tagsOf(line)[tagKey]),
          "EffectiveCost",
        );
        const planted = truth.untagged.find((each) => each.tagKey === tagKey);
        expect(planted?.amount ?? 0).toBeCloseTo(amount, 0);
        expect(planted?.share ?? 0).toBeCloseTo(amount / total, 3);
      }
    }
  });
});

function unpacked(path: string): string {
  const bytes = readFileSync(path);
  return (path.endsWith(".gz") ? gunzipSync(bytes) : bytes).toString();
}

function isUsage(line: Line): boolean {
  return line["ChargeCategory"] === "Usage" && line["ChargeClass"] !== "Correction";
}

function dayOf(line: Line): string {
  return line["ChargePeriodStart"]!.slice(0, 10);
}

function monthOf(line: Line): string {
  return line["BillingPeriodStart"]!.slice(0, 7);
}

function sum(lines: Line[], column: string): number {
  return lines.reduce((total, line) => total + Number(line[column]), 0);
}

function dailyOf(
  lines: Line[],
  place: { subAccount: string; service: string; region: string },
): Map<string, number> {
  const daily = new Map<string, number>();
  for (const line of lines) {
    const matches =
      line["SubAccountId"] === place.subAccount &&
      line["ServiceName"] === place.service &&
      line["RegionId"] === place.region;
    if (matches) daily.set(dayOf(line), (daily.get(dayOf(line)) ?? 0) + Number(line["EffectiveCost"]));
  }
  return daily;
}

/** The costs of the days of the same kind, weekend or not, within so many days before. */
function classOf(daily: Map<string, number>, day: string, days: number): number[] {
  const isWeekend = (each: string) => [0, 6].includes(new Date(each).getUTCDay());
  const first = new Date(new Date(day).getTime() - days * 86_400_000).toISOString().slice(0, 10);
  return [...daily]
    .filter(([each]) => each >= first && each < day && isWeekend(each) === isWeekend(day))
    .map(([, cost]) => cost);
}

function median(values: number[]): number {
  const sorted = values.toSorted((one, other) => one - other);
  return sorted[Math.floor(sorted.length / 2)]!;
}

function tagsOf(line: Line): Record<string, string> {
  if (line["Tags"] === "" || line["Tags"] === "NULL") return {};
  const tags = JSON.parse(line["Tags"]!) as Record<string, string>;
  return Object.fromEntries(Object.entries(tags).map(([key, value]) => [key.trim(), value]));
}
