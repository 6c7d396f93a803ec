// Sides that are measured in one run: each round runs all of them once, in an order of its own.

/** What one round of a side took, in µs. */
export type Side = (round: number) => Promise<number>;

/** When to stop: after that time or so many rounds, whichever comes first. */
export type Limits = { seconds: number; rounds: number };

/** Around a batch of rounds, and not timed: a transaction. */
export type Batch = { rounds: number; begin(): Promise<void>; end(): Promise<void> };

/** A figure, and where its tenths of the run fell: 80 percent of them between `low` and `high`. */
export type Figure = { value: number; low: number; high: number };

const WARM_UP = 12; // a prepared statement has its lasting plan from the sixth run on
const SLICES = 10;

/** Runs all sides, round by round; the times of each, in µs. */
export async function measure<Name extends string>(
  sides: Record<Name, Side>,
  limits: Limits,
  batch: Batch = { rounds: Number.POSITIVE_INFINITY, begin: async () => {}, end: async () => {} },
): Promise<Record<Name, number[]>> {
  const names = Object.keys(sides) as Name[];
  const times = Object.fromEntries(names.map((name) => [name, [] as number[]])) as Record<Name, number[]>;
  let end = Number.POSITIVE_INFINITY;
  let round = 0;
  while (performance.now() < end && round < limits.rounds + WARM_UP) {
    await batch.begin();
    for (let each = 0; each < batch.rounds && performance.now() < end; each += 1) {
      if (round === limits.rounds + WARM_UP) break;
      if (round === WARM_UP) end = performance.now() + limits.seconds * 1000;
      for (const name of shuffled(names)) {
        const time = await sides[name](round);
        if (round >= WARM_UP) times[name].push(time);
      }
      round += 1;
    }
    await batch.end();
  }
  return times;
}

/** How long it took, in µs. */
export async function timed(work: () => Promise<unknown>): Promise<number> {
  const start = performance.now();
  await work();
  return (performance.now() - start) * 1000;
}

/** The middle one. */
export function median(values: readonly number[]): number {
  return quantile(values, 0.5);
}

/** The median over the rounds of what `figure` makes of both sides, with its spread over tenths of the run. */
export function compared(
  one: readonly number[],
  other: readonly number[],
  figure: (one: number, other: number) => number,
): Figure {
  // Round by round, for what disturbs a round disturbs both sides.
  const figures = one.map((time, round) => figure(time, other[round]!));
  const slices = Math.min(SLICES, figures.length);
  const start = (slice: number) => Math.floor((slice * figures.length) / slices);
  const spread = Array.from({ length: slices }, (_, slice) =>
    median(figures.slice(start(slice), start(slice + 1))),
  );
  return { value: median(figures), low: quantile(spread, 0.1), high: quantile(spread, 0.9) };
}

/** The value below which that part of them lies. */
export function quantile(values: readonly number[], part: number): number {
  const sorted = values.toSorted((one, other) => one - other);
  return sorted[Math.round((sorted.length - 1) * part)] ?? Number.NaN;
}

function shuffled<T>(values: readonly T[]): T[] {
  return values
    .map((value) => ({ value, key: Math.random() }))
    .sort((one, other) => one.key - other.key)
    .map(({ value }) => value);
}
