// What the rounds come to, as one line for each number of tenants and of schedulers.
import { median } from "../rls/rounds.ts";
import { count, fixed, table } from "../tables.ts";
import type { Round } from "./sides.ts";

/** Seconds are medians of the rounds, with the fastest and the slowest; what must be 0 is the sum of all. */
export type Result = {
  tenants: number;
  schedulers: number;
  /** False: one pass on tables that were never analysed, beside the floor of those that were. */
  analysed: boolean;
  seconds: number;
  fastest: number;
  slowest: number;
  floor_seconds: number;
  ratio: number;
  target: number;
  runs: number;
  ticks: number;
  longest_tick_seconds: number;
  cpu_us_per_run: number | undefined;
  floor_cpu_us_per_run: number | undefined;
  deadlocks: number;
  duplicates: number;
  missing: number;
};

/** All figures of one server. */
export type Report = { server_version: string; rounds: number; max_runs: number; results: Result[] };

type Rounds = Pick<Result, "tenants" | "schedulers" | "analysed"> & { ticks: Round[]; floors: Round[] };

/** Of the rounds of one line. */
export function summary({ tenants, schedulers, analysed, ticks, floors }: Rounds): Result {
  const seconds = ticks.map((round) => round.seconds);
  const floor = median(floors.map((round) => round.seconds));
  const sum = (name: "deadlocks" | "duplicates" | "missing") =>
    ticks.reduce((total, round) => total + round[name], 0);
  return {
    tenants,
    schedulers,
    analysed,
    seconds: median(seconds),
    fastest: Math.min(...seconds),
    slowest: Math.max(...seconds),
    floor_seconds: floor,
    ratio: median(seconds) / floor,
    target: 2,
    runs: median(ticks.map((round) => round.runs)),
    ticks: median(ticks.map((round) => round.ticks)),
    longest_tick_seconds: Math.max(...ticks.map((round) => round.longest)),
    cpu_us_per_run: cpuPerRun(ticks),
    floor_cpu_us_per_run: cpuPerRun(floors),
    deadlocks: sum("deadlocks"),
    duplicates: sum("duplicates"),
    missing: sum("missing"),
  };
}

function cpuPerRun(rounds: Round[]): number | undefined {
  const each = rounds.flatMap(({ cpu, runs }) => (cpu === undefined ? [] : [(cpu * 1e6) / runs]));
  return each.length === 0 ? undefined : median(each);
}

/** One table. */
export function asMarkdown({ server_version, rounds, max_runs, results }: Report): string {
  return [
    `### PostgreSQL ${server_version}: ticks of at most ${count(max_runs)} runs, ${rounds} rounds`,
    "",
    ...table(
      [
        "due tenants, schedulers",
        "s",
        "fastest to slowest",
        "floor, s",
        "ratio",
        "target",
        "ticks",
        "longest, s",
        "CPU, µs a run",
        "floor's",
        "deadlocks",
        "duplicates",
        "missing",
      ],
      results.map((result) => [
        `${count(result.tenants)}, ${result.schedulers}${result.analysed ? "" : ", never analysed"}`,
        fixed(result.seconds, 2),
        `${fixed(result.fastest, 2)} to ${fixed(result.slowest, 2)}`,
        fixed(result.floor_seconds, 2),
        fixed(result.ratio, 2),
        `≤ ${result.target}`,
        count(result.ticks),
        fixed(result.longest_tick_seconds, 2),
        fixed(result.cpu_us_per_run, 1),
        fixed(result.floor_cpu_us_per_run, 1),
        String(result.deadlocks),
        String(result.duplicates),
        String(result.missing),
      ]),
    ),
  ].join("\n");
}
