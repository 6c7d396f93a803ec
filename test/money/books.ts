// The books of one tenant as they should be, in memory: what each call of the ledger answers, and every counter after it.
// Money is in thousandths of nano-USD where it is not rounded yet.

/** Nano-USD for a token of each kind; null costs what input or output does. */
export type Rates = { input: bigint; cached: bigint | null; output: bigint; reasoning: bigint | null };

/** A request for a hold. */
export type BookAsk = {
  key: string;
  model: string;
  input: number;
  output: number;
  atLeast: number | null;
  user: string | null;
  apiKey: string | null;
  tags: string[];
  lapses: boolean;
};

/** What a call has used. */
export type Used = { input: number; cached: number; output: number; reasoning: number };
/** A settle of the hold that was made as the nth. */
export type BookSettle = { nth: number; used: Used; final: boolean; source: "provider" | "estimated" };

export type BookBudget = { scope: string; scopeId: string; period: string; limit: bigint | null };
export type Policy = "hold" | "release_after" | "charge_worst_case";

type Status = "RESERVED" | "APPLIED" | "RELEASED" | "PRESUMED" | "WRITTEN_OFF";
/** The place of a budget, and in which of its periods, counted from the first. */
type Place = { budget: number; era: number };
type Hold = {
  n: number;
  ask: string;
  status: Status;
  amount: bigint;
  granted: bigint;
  input: number;
  settled: bigint;
  rates: Rates;
  factor: bigint;
  places: Place[];
  lapsed: boolean;
  old: boolean;
  usages: { used: Used; adjusts: boolean; estimated: boolean }[];
};

/** The part of an answer that the books know; `hold` counts the holds in the order in which they were made. */
export type Answer = {
  refusal: string | null;
  hold?: number;
  status?: Status;
  amount?: bigint;
  granted?: bigint;
  replayed?: boolean;
  over?: bigint;
};

/** A request on its way through the books. */
type Wanted = Answer & { ask: BookAsk; rates?: Rates; budgets: number[]; first?: Wanted };

const max = (...values: bigint[]) => values.reduce((a, b) => (a > b ? a : b));
const min = (...values: bigint[]) => values.reduce((a, b) => (a < b ? a : b));
const ceil = (thousandths: bigint) => (thousandths + 999n) / 1_000n;
/** Rounds down, also below zero. */
const floor = (a: bigint, b: bigint) => (a >= 0n ? a / b : -((-a + b - 1n) / b));
const NO_LIMIT = 10n ** 30n;
const closed = { refusal: "reservation_closed" };
const sameUsed = (a: Used, b: Used) =>
  a.input === b.input && a.cached === b.cached && a.output === b.output && a.reasoning === b.reasoning;

export class Books {
  readonly budgets: BookBudget[];
  readonly prices: Map<string, Rates>;
  readonly holds: Hold[] = [];
  /** In thousandths, for every rate of the tenant. */
  factor = 1_000n;
  policy: Policy = "hold";
  /** How often a month has passed. */
  era = 0;
  private readonly byKey = new Map<string, Hold>();

  constructor(budgets: BookBudget[], prices: Map<string, Rates>) {
    this.budgets = budgets;
    this.prices = prices;
  }

  /** By budget and period, oldest first, what is reserved, presumed and spent; without those of nothing. */
  counters(): string[] {
    const lines: string[] = [];
    for (const [at, { scope, scopeId, period }] of this.budgets.entries()) {
      for (let era = 0; era <= this.era; era += 1) {
        const [reserved, presumed, spent] = this.counted({ budget: at, era });
        if (max(reserved, presumed, spent) > 0n)
          lines.push([scope, scopeId, period, reserved, presumed, spent].join(" "));
      }
    }
    return lines;
  }

  private counted({ budget, era }: Place): [reserved: bigint, presumed: bigint, spent: bigint] {
    const sums: [bigint, bigint, bigint] = [0n, 0n, 0n];
    for (const hold of this.holds) {
      if (!hold.places.some((place) => place.budget === budget && place.era === era)) continue;
      const rest = max(0n, hold.amount - hold.settled);
      if (hold.status === "RESERVED") sums[0] += rest;
      if (hold.status === "PRESUMED") sums[1] += rest;
      sums[2] += hold.settled;
    }
    return sums;
  }

  private eraOf(budget: number): number {
    return this.budgets[budget]!.period === "total" ? 0 : this.era;
  }

  private left(budget: number, comeBack: boolean): bigint {
    const { limit } = this.budgets[budget]!;
    const [reserved, presumed, spent] = this.counted({ budget, era: this.eraOf(budget) });
    const most = limit === null ? NO_LIMIT : limit === 0n ? -1n : limit;
    return most - presumed - spent - (comeBack ? 0n : reserved);
  }

  /** What the call can cost without output, and for each token of output, in thousandths. */
  private bound({ ask, rates }: Wanted): { fixed: bigint; each: bigint } {
    const { input, cached, output, reasoning } = rates!;
    return {
      fixed: BigInt(ask.input) * max(input, cached ?? input) * this.factor,
      each: max(output, reasoning ?? output) * this.factor,
    };
  }

  reserve(asks: BookAsk[]): Answer[] {
    const wanted = asks.map((ask) => this.read(ask));
    for (const each of wanted)
      if (each.refusal === null && !each.replayed) this.fit(each, (at) => this.left(at, true));

    const takers = new Map<string, Wanted>();
    for (const each of wanted) {
      if (each.refusal !== null || each.replayed) continue;
      const first = takers.get(each.ask.key);
      if (first === undefined) takers.set(each.ask.key, each);
      else if (said(first.ask) === said(each.ask)) Object.assign(each, { first, replayed: true });
      else each.refusal = "idempotency_conflict";
    }
    for (const each of takers.values()) {
      this.fit(each, (at) => this.left(at, false));
      if (each.refusal === null) this.hold(each);
    }
    return wanted.map(({ first, ask: _ask, rates: _rates, budgets: _budgets, ...answer }) => {
      if (first === undefined) return answer;
      const { refusal, hold, status, amount, granted } = first;
      return refusal === null
        ? { refusal, hold: hold!, status: status!, amount: amount!, granted: granted!, replayed: true }
        : { refusal };
    });
  }

  private read(ask: BookAsk): Wanted {
    const budgets = [...this.budgets.keys()].filter((at) => isUnder(ask, this.budgets[at]!));
    const known = this.byKey.get(ask.key);
    if (ask.input < 0 || (ask.atLeast !== null && ask.atLeast > ask.output))
      return { ask, budgets, refusal: "reservation_invalid" };
    if (known !== undefined) {
      if (known.ask !== said(ask)) return { ask, budgets, refusal: "idempotency_conflict" };
      return { ask, budgets, refusal: null, replayed: true, ...this.stateOf(known) };
    }
    const rates = this.prices.get(ask.model);
    if (rates === undefined) return { ask, budgets, refusal: "no_price" };
    const wanted: Wanted = {
      ask,
      budgets,
      rates,
      refusal: null,
      granted: BigInt(ask.output),
      replayed: false,
    };
    if (!this.budgets.some(({ scope }) => scope === "tenant")) wanted.refusal = "budget_exceeded";
    return wanted;
  }

  private stateOf({ n, status, amount, granted }: Hold): Partial<Answer> {
    return { hold: n, status, amount, granted };
  }

  private fit(wanted: Wanted, left: (budget: number) => bigint): void {
    const least = min(NO_LIMIT, ...wanted.budgets.map(left));
    const { fixed, each } = this.bound(wanted);
    const { atLeast } = wanted.ask;
    wanted.amount = ceil(fixed + wanted.granted! * each);
    if (least < wanted.amount && atLeast !== null && each > 0n) {
      wanted.granted = max(BigInt(atLeast), min(wanted.granted!, floor(least * 1_000n - fixed, each)));
      wanted.amount = ceil(fixed + wanted.granted * each);
    }
    if (least < wanted.amount || least < 0n) wanted.refusal = "budget_exceeded";
  }

  private hold(wanted: Wanted): void {
    const { ask, budgets, rates, amount, granted } = wanted;
    const hold: Hold = {
      n: this.holds.length,
      ask: said(ask),
      status: "RESERVED",
      amount: amount!,
      granted: granted!,
      input: ask.input,
      settled: 0n,
      rates: rates!,
      factor: this.factor,
      places: budgets.map((budget) => ({ budget, era: this.eraOf(budget) })),
      lapsed: ask.lapses,
      old: false,
      usages: [],
    };
    this.holds.push(hold);
    this.byKey.set(ask.key, hold);
    Object.assign(wanted, this.stateOf(hold), { replayed: false });
  }

  settle({ nth, used, final, source }: BookSettle): Answer {
    if (used.cached > used.input || used.reasoning > used.output) return { refusal: "reservation_invalid" };
    const hold = this.holds[nth];
    if (hold === undefined) return { refusal: "reservation_not_found" };
    const ended = hold.status === "APPLIED" || hold.status === "WRITTEN_OFF";
    if (hold.status === "RELEASED" || (ended && !final)) return closed;
    const known = hold.usages.some((each) => sameUsed(each.used, used));
    if (ended && known) return this.settled(hold);
    if (ended && !isOpenToTruth(hold)) return closed;

    const cost = costOf(hold, used);
    hold.settled = ended || !final ? max(cost, hold.settled) : cost;
    if (final) hold.usages.push({ used, adjusts: ended, estimated: source === "estimated" });
    if (final && !ended) hold.status = "APPLIED";
    return this.settled(hold);
  }

  private settled({ status, settled, amount }: Hold): Answer {
    return { refusal: null, status, amount: settled, over: max(0n, settled - amount) };
  }

  release(nth: number): Answer {
    const hold = this.holds[nth];
    if (hold === undefined) return { refusal: "reservation_not_found" };
    if (hold.status === "RESERVED" && hold.settled === 0n) hold.status = "RELEASED";
    return hold.status === "RELEASED" ? { refusal: null, status: "RELEASED" } : closed;
  }

  presume(nth: number): Answer {
    const hold = this.holds[nth];
    if (hold === undefined) return { refusal: "reservation_not_found" };
    if (hold.status === "RESERVED") hold.status = "PRESUMED";
    return hold.status === "PRESUMED" ? { refusal: null, status: "PRESUMED" } : closed;
  }

  extend(nth: number): Answer {
    const hold = this.holds[nth];
    if (hold === undefined) return { refusal: "reservation_not_found" };
    return hold.status === "RESERVED" && !hold.lapsed ? { refusal: null, status: "RESERVED" } : closed;
  }

  writeOff(nth: number): Answer {
    const hold = this.holds[nth];
    if (hold === undefined) return { refusal: "reservation_not_found" };
    if (hold.status !== "PRESUMED") return closed;
    hold.status = "WRITTEN_OFF";
    return { refusal: null, status: "WRITTEN_OFF" };
  }

  /** Which holds the sweeper presumes. */
  expire(): number[] {
    const due = this.holds.filter(({ status, lapsed }) => status === "RESERVED" && lapsed);
    for (const hold of due) hold.status = "PRESUMED";
    return due.map(({ n }) => n);
  }

  /** Which holds the policy ends, and how. */
  resolve(): string[] {
    const due = this.holds.filter((hold) => hold.status === "PRESUMED" && this.isDue(hold));
    for (const hold of due) {
      hold.status = this.policy === "release_after" ? "WRITTEN_OFF" : "APPLIED";
      if (hold.status === "WRITTEN_OFF") continue;
      hold.settled = max(hold.amount, hold.settled);
      const used = { input: hold.input, cached: 0, output: Number(hold.granted), reasoning: 0 };
      hold.usages.push({ used, adjusts: false, estimated: true });
    }
    return due.map(({ n, status }) => `${n} ${status}`);
  }

  private isDue({ old, places }: Hold): boolean {
    if (this.policy === "hold") return false;
    if (this.policy === "release_after") return old;
    return !places.some(({ budget, era }) => this.budgets[budget]!.period !== "total" && era === this.era);
  }
}

/** A hold that was written off, or charged by a guess, hears the truth once. */
const isOpenToTruth = ({ status, usages }: Hold) =>
  (status === "WRITTEN_OFF" || usages.some(({ estimated, adjusts }) => estimated && !adjusts)) &&
  !usages.some(({ adjusts, estimated }) => adjusts && !estimated);

function costOf({ rates, factor }: Hold, { input, cached, output, reasoning }: Used): bigint {
  const nano =
    BigInt(input - cached) * rates.input +
    BigInt(cached) * (rates.cached ?? rates.input) +
    BigInt(output - reasoning) * rates.output +
    BigInt(reasoning) * (rates.reasoning ?? rates.output);
  return ceil(nano * factor);
}

function isUnder(ask: BookAsk, { scope, scopeId }: BookBudget): boolean {
  if (scope === "tenant") return true;
  if (scope === "api_key") return ask.apiKey === scopeId;
  if (scope === "user") return ask.user === scopeId;
  if (scope === "model") return `p/${ask.model}` === scopeId;
  return ask.tags.includes(scopeId);
}

/** What of a request must be the same for the same key: all but how long it lasts. */
const said = ({ lapses: _lapses, ...ask }: BookAsk) => JSON.stringify(ask);
