// What was planted in a sample bill, collected while it is made.
import { TAG_KEYS } from "./catalog.ts";

/** The series of a bill, as detectors group it. */
export type SeriesPlace = { subAccount: string; service: string; region: string };

/** What a detector should find; amounts are in the currency of the bill. */
export type Truth = {
  /** One day each, with the cost beyond what the series would have had. */
  spikes: (SeriesPlace & { day: string; amount: number })[];
  /** A higher level since a day, still there at the end, with its mean excess per day. */
  shifts: (SeriesPlace & { fromDay: string; dailyAmount: number })[];
  /** Effective cost of usage (corrections apart) whose resource lacks a tag, over all days, and its part of the whole. */
  untagged: { tagKey: string; amount: number; share: number }[];
};

/** Collects what was planted while a bill is made. */
export class TruthTally {
  readonly #spikes: Truth["spikes"] = [];
  readonly #shifts = new Map<string, { place: SeriesPlace; fromDay: string; amounts: number[] }>();
  readonly #untagged = new Map<string, number>(TAG_KEYS.map((key) => [key, 0]));
  #usage = 0;

  addSpike(place: SeriesPlace, day: string, amount: number): void {
    this.#spikes.push({ ...place, day, amount: round(amount, 2) });
  }

  /** Called for each day of a shift, in order. */
  addShift(place: SeriesPlace, day: string, amount: number): void {
    const key = JSON.stringify(place);
    const shift = this.#shifts.get(key) ?? { place, fromDay: day, amounts: [] };
    shift.amounts.push(amount);
    this.#shifts.set(key, shift);
  }

  /** Usage of a resource that lacks these tags; without a resource, all of them. */
  addUsage(effectiveCost: number, lacks: ReadonlySet<string> | undefined): void {
    this.#usage += effectiveCost;
    for (const [key, amount] of this.#untagged) {
      if (lacks === undefined || lacks.has(key)) this.#untagged.set(key, amount + effectiveCost);
    }
  }

  truth(): Truth {
    return {
      spikes: this.#spikes,
      shifts: [...this.#shifts.values()].map(({ place, fromDay, amounts }) => ({
        ...place,
        fromDay,
        dailyAmount: round(amounts.reduce((sum, each) => sum + each, 0) / amounts.length, 2),
      })),
      untagged: [...this.#untagged]
        .filter(([, amount]) => amount > 0)
        .map(([tagKey, amount]) => ({
          tagKey,
          amount: round(amount, 2),
          share: round(amount / this.#usage, 4),
        })),
    };
  }
}

function round(value: number, decimals: number): number {
  return Number(value.toFixed(decimals));
}
