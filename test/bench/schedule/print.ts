// What the rounds come to, as one line for each number of tenants and of schedulers.
import { type Conditions, conditionLines } from "../conditions.ts";
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
  /** Round by round, the ticks over the floor: the median, the least and the greatest. */
  ratio: number;
  least_ratio: number;
  most_ratio: number;
  /** Of the ratio; undefined where there is none. Deadlocks, duplicates and missing rows are to be 0 everywhere. */
  target: number | undefined;
  reached: boolean;
  rounds: number;
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
export type Report = { conditions: Conditions; max_runs: number; sides: typeof SIDES; results: Result[] };

/** What is compared, for who has not read this. */
export const SIDES = {
  scheduler:
    "app.schedule_tick, called by so many connections at once until nothing is due: finds and locks what is due, derives the turns, writes runs, slots, audit rows and tokens, all checked",
  floor:
    "insert … select of exactly those rows into the same tables with all of their indexes and checks, in as many transactions by as many connections; no triggers, no foreign keys, no policies",
} as const;

/** The greatest ratio, with as many tenants or more: with few, what each of the shards costs is most of it. */
const TARGET = { ratio: 2, tenants: 1_000_000 };

type Rounds = Pick<Result, "tenants" | "schedulers" | "analysed"> & { ticks: Round[]; floors: Round[] };

/** Of the rounds of one line. */
export function summary({ tenants, schedulers, analysed, ticks, floors }: Rounds): Result {
  const seconds = ticks.map((round) => round.seconds);
  const floor = median(floors.map((round) => round.seconds));
  const ratios = seconds.map((each, at) => each / (floors[at]?.seconds ?? floor));
  const sum = (name: "deadlocks" | "duplicates" | "missing") =>
    ticks.reduce((total, round) => total + round[name], 0);
  const wrong = sum("deadlocks") + sum("duplicates") + sum("missing");
  const target = analysed && tenants >= TARGET.tenants ? TARGET.ratio : undefined;
  return {
    tenants,
    schedulers,
    analysed,
    seconds: median(seconds),
    fastest: Math.min(...seconds),
    slowest: Math.max(...seconds),
    floor_seconds: floor,
    ratio: median(ratios),
    least_ratio: Math.min(...ratios),
    most_ratio: Math.max(...ratios),
    target,
    reached: wrong === 0 && (target === undefined || median(ratios) <= target),
    rounds: ticks.length,
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
export function asMarkdown({ conditions, max_runs, results }: Report): string {
  return [
    `### bench:schedule: many due tenants, in transactions of at most ${count(max_runs)} runs`,
    "",
    ...conditionLines(conditions),
    "",
    ...table(
      [
        "due tenants, schedulers at once",
        "scheduler, s",
        "fastest to slowest",
        "floor, s",
        "scheduler / floor",
        "least to greatest",
        "target",
        "reached",
        "rounds",
        "ticks",
        "longest, s",
        "PostgreSQL's CPU, µs a run",
        "the floor's",
        "deadlocks",
        "duplicates",
        "missing",
      ],
      results.map((result) => [
        `${count(result.tenants)}, ${result.schedulers}${result.analysed ? "" : ", tables never analysed"}`,
        fixed(result.seconds, 2),
        `${fixed(result.fastest, 2)} to ${fixed(result.slowest, 2)}`,
        fixed(result.floor_seconds, 2),
        fixed(result.ratio, 2),
        `${fixed(result.least_ratio, 2)} to ${fixed(result.most_ratio, 2)}`,
        `${result.target === undefined ? "" : `≤ ${result.target}, `}none wrong`,
        result.reached ? "yes" : "no",
        String(result.rounds),
        count(result.ticks),
        fixed(result.longest_tick_seconds, 2),
        fixed(result.cpu_us_per_run, 1),
        fixed(result.floor_cpu_us_per_run, 1),
        String(result.deadlocks),
        String(result.duplicates),
        String(result.missing),
      ]),
    ),
    "",
    `- scheduler: ${SIDES.scheduler}`,
    `- floor: ${SIDES.floor}`,
    "- none wrong: no deadlock; no run beyond one for a tenant, kind and slot; no tenant without its run, no run without its token and audit row",
    "- tables never analysed: the first pass of all, beside the floor of the rounds after it",
  ].join("\n");
}
