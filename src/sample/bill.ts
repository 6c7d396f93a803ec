// Makes the bill of a sample tenant: usage by day and resource, the monthly charges, and the truth that was planted.
import { PROVIDERS, type Profile, REGION_NAMES, SERVICES, type Service, type Workload } from "./catalog.ts";
import {
  COMMITMENT_RATE,
  commitment,
  commitmentFee,
  flatCharge,
  monthlyCharge,
  usageCharge,
  withQuirks,
} from "./charges.ts";
import { type Charge, lineOf } from "./csv.ts";
import { hashOf, type Random, randomFrom } from "./random.ts";
import { makeResources, type Resource, subAccountId } from "./resources.ts";
import { type Truth, TruthTally } from "./truth.ts";

const DAYS = 120;
const DAY_MS = 86_400_000;

/** The part of a workload's daily cost that one committed resource covers. */
const COMMITTED_PART = 0.12;

type Day = { index: number; start: Date; daysAgo: number };

type Series = {
  workload: Workload;
  service: Service;
  random: Random;
  resources: Resource[];
  subAccount: string;
};

/** The bill of the 120 days before `lastDay` (UTC) as CSV lines in order of time, and the truth. */
export function makeBill(profile: Profile, lastDay: Date): { lines: string[]; truth: Truth } {
  const bill = new Bill(profile);
  const end = Math.floor(lastDay.getTime() / DAY_MS) * DAY_MS;
  for (let index = 0; index < DAYS; index++) {
    const day = { index, start: new Date(end - (DAYS - index) * DAY_MS), daysAgo: DAYS - index };
    if (day.start.getUTCDate() === 1) bill.addMonth(day);
    bill.addDay(day);
  }
  return { lines: bill.lines, truth: bill.tally.truth() };
}

class Bill {
  readonly lines: string[] = [];
  readonly tally = new TruthTally();
  readonly #profile: Profile;
  readonly #series: Series[];

  constructor(profile: Profile) {
    this.#profile = profile;
    this.#series = profile.workloads.map((workload, index) => {
      const service = SERVICES[workload.service];
      const random = randomFrom(hashOf(`${profile.seed}/${index}`));
      const resources = makeResources(profile, workload, service, random);
      const subAccount = subAccountId(service.provider, profile.accounts[workload.account]!.id);
      return { workload, service, random, resources, subAccount };
    });
  }

  addDay(day: Day): void {
    for (const series of this.#series) {
      this.#addOnDemand(series, day);
      if (series.workload.committed > 0) this.#addCommitted(series, day);
    }
  }

  /** Purchases, tax and credit stand at the beginning of a month, and one correction of the month before. */
  addMonth(day: Day): void {
    const [first] = this.#series;
    if (first === undefined) return;
    const { supportMonthly, creditMonthly } = this.#profile;
    const wholeMonth = { ChargePeriodEnd: isoTime(monthEnd(day)) };
    this.#add(first, day, {
      ...monthlyCharge("Purchase", "Recurring", "Support plan", supportMonthly),
      ...wholeMonth,
    });
    this.#add(first, day, monthlyCharge("Tax", "One-Time", "Tax on support plan", supportMonthly * 0.07));
    if (creditMonthly > 0) {
      this.#add(first, day, monthlyCharge("Credit", "One-Time", "Promotional credit", -creditMonthly));
    }
    for (const series of this.#series.filter(({ workload }) => workload.committed > 0)) {
      const fee = dailyFee(series.workload) * ((monthEnd(day).getTime() - day.start.getTime()) / DAY_MS);
      this.#add(series, day, { ...commitmentFee(series.service, series.subAccount, fee), ...wholeMonth });
    }
    if (day.daysAgo > 31) return;
    const refund = usageCharge(first.service, -0.3 * first.workload.daily);
    const earlier = period(new Date(day.start.getTime() - 3 * DAY_MS));
    this.#add(first, day, { ...refund, ...earlier, ChargeClass: "Correction" });
  }

  #addOnDemand(series: Series, day: Day): void {
    const { workload, service, random } = series;
    const usual = usualCost(series, day);
    const shiftTimes =
      workload.shift !== undefined && day.daysAgo <= workload.shift.daysAgo ? workload.shift.times : 1;
    const spikeTimes = workload.spikes.find((each) => each.daysAgo === day.daysAgo)?.times ?? 1;
    const place = { subAccount: series.subAccount, service: service.name, region: workload.region };
    if (shiftTimes > 1) this.tally.addShift(place, isoDay(day.start), usual * (shiftTimes - 1));
    if (spikeTimes > 1) this.tally.addSpike(place, isoDay(day.start), usual * (spikeTimes - 1));

    for (const [index, resource] of series.resources.slice(workload.committed).entries()) {
      const runaway = index === 0 ? usual * (spikeTimes - 1) : 0;
      const cost = usual * shiftTimes * resource.share * (1 + 0.02 * random.normal()) + runaway;
      this.#addUsage(series, day, resource, withQuirks(workload.service, usageCharge(service, cost), random));
    }
  }

  /** A commitment costs the same each day, used or not: used rows per resource, and one for what nothing used. */
  #addCommitted(series: Series, day: Day): void {
    const { workload, service, random, subAccount } = series;
    const perResource = dailyFee(workload) / workload.committed;
    let unused = 0;
    for (const resource of series.resources.slice(0, workload.committed)) {
      const used = perResource * (0.94 + 0.06 * random.uniform());
      unused += perResource - used;
      const covered = {
        ...usageCharge(service, used / COMMITMENT_RATE),
        ...commitment(service, subAccount, "Used"),
      };
      this.#addUsage(series, day, resource, { ...covered, BilledCost: 0, EffectiveCost: used });
    }
    const rest = {
      ...flatCharge(unused, service.unit),
      ...commitment(service, subAccount, "Unused"),
      BilledCost: 0,
    };
    this.#addUsage(series, day, undefined, {
      ...rest,
      ChargeCategory: "Usage",
      ChargeFrequency: "Usage-Based",
    });
  }

  #addUsage(series: Series, day: Day, resource: Resource | undefined, charge: Charge): void {
    this.tally.addUsage(Number(charge.EffectiveCost), resource?.lacks);
    this.#add(series, day, { ...charge, ...resource?.columns });
  }

  #add({ service, workload, subAccount }: Series, day: Day, charge: Charge): void {
    const provider = PROVIDERS[service.provider];
    const monthStart = new Date(Date.UTC(day.start.getUTCFullYear(), day.start.getUTCMonth(), 1));
    const whole: Charge = {
      ...period(day.start),
      BillingAccountId: provider.billingAccountId,
      BillingAccountName: this.#profile.name,
      BillingCurrency: this.#profile.currency,
      BillingPeriodStart: isoTime(monthStart),
      BillingPeriodEnd: isoTime(monthEnd(day)),
      ProviderName: provider.name,
      PublisherName: provider.publisher,
      InvoiceIssuerName: provider.issuer,
      RegionId: workload.region,
      RegionName: REGION_NAMES[workload.region] ?? workload.region,
      ServiceCategory: service.category,
      ServiceName: service.name,
      SubAccountId: subAccount,
      SubAccountName: workload.account,
      Id: 10_000 + this.lines.length,
      ...charge,
    };
    this.lines.push(lineOf(whole, provider));
  }
}

/** What a series costs on a day without anything planted: growth, weekend, and noise with a mean of one. */
function usualCost({ workload, service, random }: Series, day: Day): number {
  const isWeekend = [0, 6].includes(day.start.getUTCDay());
  const trend = workload.daily * (1 + workload.growth) ** day.index * (isWeekend ? service.weekend : 1);
  return trend * Math.exp(service.noise * random.normal() - service.noise ** 2 / 2);
}

/** What the commitment of a workload costs a day. */
function dailyFee({ daily, committed }: Workload): number {
  return daily * COMMITTED_PART * committed * COMMITMENT_RATE;
}

function period(start: Date): Charge {
  return { ChargePeriodStart: isoTime(start), ChargePeriodEnd: isoTime(new Date(start.getTime() + DAY_MS)) };
}

function monthEnd({ start }: { start: Date }): Date {
  return new Date(Date.UTC(start.getUTCFullYear(), start.getUTCMonth() + 1, 1));
}

function isoTime(moment: Date): string {
  return moment.toISOString().replace(".000Z", "Z");
}

function isoDay(moment: Date): string {
  return moment.toISOString().slice(0, 10);
}
