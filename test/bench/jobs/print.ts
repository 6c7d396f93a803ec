// The figures as tables in markdown, the targets beside them.
import { type Conditions, conditionLines } from "../conditions.ts";
import { median } from "../rls/rounds.ts";
import { count, fixed, table } from "../tables.ts";
import type { EnqueueRate } from "./enqueue.ts";
import type { Latency } from "./latency.ts";
import type { Memory } from "./memory.ts";
import type { Chunks } from "./processes.ts";
import { type Round, SIDES, type SideName } from "./sides.ts";

/** A side at a concurrency, or on empty tables: medians of its rounds; CPU in µs per run. */
export type Line = {
  side: SideName;
  name: string;
  does: string;
  concurrency: number;
  empty: boolean;
  per_second: number;
  slowest: number;
  fastest: number;
  server_cpu_us: number | undefined;
  client_cpu_us: number;
  rss_mb: number;
  /** Runs in one call, on the average: as measured, or as pgbench was told. */
  runs_per_claim: number | undefined;
  runs_per_completion: number | undefined;
  rounds: Round[];
};

/** One side over another: the median over the rounds of their ratio, and the least and greatest. */
export type Ratio = {
  what: string;
  concurrency: number;
  value: number;
  least: number;
  most: number;
  /** Undefined where it only explains another. */
  target: number | undefined;
  reached: boolean | undefined;
};

/** All figures of one server. */
export type Report = {
  conditions: Conditions;
  tenants: number;
  seconds: number;
  lines: Line[];
  ratios: Ratio[];
  latency: Latency | null;
  enqueue: EnqueueRate[];
  memory: Memory | null;
};

/** The rounds of a side, in one line; `chunks` where it was told them. */
export function lineOf(
  side: SideName,
  concurrency: number,
  empty: boolean,
  rounds: Round[],
  chunks: Chunks | undefined,
): Line {
  const { name, does } = SIDES[side];
  const rates = rounds.map((round) => round.perSecond);
  const cpu = rounds.flatMap((round) => (round.serverCpu === undefined ? [] : [round.serverCpu]));
  const together = chunks === undefined ? rounds.flatMap((round) => round.together ?? []) : [chunks];
  const runsPer = (call: keyof Chunks) =>
    together.length === 0 ? undefined : median(together.map((each) => each[call]));
  return {
    side,
    name,
    does,
    concurrency,
    empty,
    per_second: median(rates),
    slowest: Math.min(...rates),
    fastest: Math.max(...rates),
    server_cpu_us: cpu.length === 0 ? undefined : median(cpu),
    client_cpu_us: median(rounds.map((round) => round.clientCpu)),
    rss_mb: median(rounds.map((round) => round.rssMb)),
    runs_per_claim: runsPer("claim"),
    runs_per_completion: runsPer("end"),
    rounds,
  };
}

const COMPARED = [
  { one: "ours", other: "pgbenchChunked", target: 0.8 },
  { one: "ours", other: "pgbenchTwo", target: undefined },
  { one: "single", other: "bossLoops", target: 1.5 },
  { one: "ours", other: "bossLoops", target: 1.5 },
] as const;

/** What was measured in the same rounds, compared round by round. */
export function ratiosOf(lines: Line[]): Ratio[] {
  const measured = lines.filter((line) => !line.empty);
  return COMPARED.flatMap(({ one, other, target }) =>
    [...new Set(measured.map((line) => line.concurrency))].flatMap((concurrency) => {
      const of = (side: SideName) =>
        measured.find((line) => line.side === side && line.concurrency === concurrency)?.rounds;
      const [ones, others] = [of(one), of(other)];
      if (ones === undefined || others === undefined) return [];
      const what = `${SIDES[one].name} / ${SIDES[other].name}`;
      const values = ones.map((round, at) => round.perSecond / others[at]!.perSecond);
      const [least, most, value] = [Math.min(...values), Math.max(...values), median(values)];
      return [
        {
          what,
          concurrency,
          value,
          least,
          most,
          target,
          reached: target === undefined ? undefined : value >= target,
        },
      ];
    }),
  );
}

/** All tables. */
export function asMarkdown({ conditions, tenants, seconds, ...figures }: Report): string {
  const { lines, ratios, latency, enqueue, memory } = figures;
  return [
    `### bench:jobs: runs that do nothing, of ${count(tenants)} tenants, in rounds of ${seconds} s`,
    "",
    ...conditionLines(conditions),
    "",
    ...(lines.length === 0 ? [] : [...linesTable(lines), "", ...legend(lines)]),
    ...(ratios.length === 0 ? [] : ["", ...ratiosTable(ratios)]),
    ...(latency === null ? [] : ["", ...latencyTable(latency)]),
    ...(enqueue.length === 0 ? [] : ["", ...enqueueTable(enqueue)]),
    ...(memory === null ? [] : memoryTable(memory)),
  ].join("\n");
}

function linesTable(lines: Line[]): string[] {
  return table(
    [
      "no-op runs, by",
      "runs at a time",
      "runs/s",
      "slowest to fastest",
      "rounds",
      "PostgreSQL's CPU, µs a run",
      "client's CPU, µs a run",
      "runs to a claim",
      "to a completion",
      "client's RSS, MB",
    ],
    lines.map((line) => [
      line.name + (line.empty ? ", begun on empty tables" : ""),
      String(line.concurrency),
      whole(line.per_second),
      `${whole(line.slowest)} to ${whole(line.fastest)}`,
      String(line.rounds.length),
      fixed(line.server_cpu_us, 0),
      fixed(line.client_cpu_us, 0),
      fixed(line.runs_per_claim, 1),
      fixed(line.runs_per_completion, 1),
      fixed(line.rss_mb, 0),
    ]),
  );
}

function legend(lines: Line[]): string[] {
  const sides = [...new Set(lines.map((line) => line.side))];
  return sides.map((side) => `- ${SIDES[side].name}: ${SIDES[side].does}`);
}

function ratiosTable(ratios: Ratio[]): string[] {
  return table(
    [
      "runs/s, one over the other, round by round",
      "runs at a time",
      "median",
      "least to greatest",
      "target",
      "reached",
    ],
    ratios.map(({ what, concurrency, value, least, most, target, reached }) => [
      what,
      String(concurrency),
      fixed(value, 2),
      `${fixed(least, 2)} to ${fixed(most, 2)}`,
      target === undefined ? "" : `≥ ${target}`,
      reached === undefined ? "" : reached ? "yes" : "no",
    ]),
  );
}

function latencyTable({ samples, p50, p95, p99, most, enqueue_p50, target, reached }: Latency): string[] {
  return table(
    [
      "from the call of app.job_enqueue to the first line of the task, nothing else to do",
      "p50, ms",
      "p95, ms",
      "target",
      "reached",
      "p99, ms",
      "longest, ms",
      "the call alone, p50, ms",
    ],
    [
      [
        `${samples} samples, at random moments`,
        fixed(p50, 1),
        fixed(p95, 1),
        `p95 < ${target}`,
        reached ? "yes" : "no",
        fixed(p99, 1),
        fixed(most, 1),
        fixed(enqueue_p50, 1),
      ],
    ],
  );
}

function enqueueTable(rates: EnqueueRate[]): string[] {
  return table(
    [
      "runs made by one client, while no worker takes them",
      "per second",
      "slowest to fastest",
      "PostgreSQL's CPU, µs a run",
    ],
    rates.map(({ way, runs, rounds, per_second, server_cpu_us }) => [
      way,
      count(runs),
      whole(per_second),
      `${whole(Math.min(...rounds))} to ${whole(Math.max(...rounds))}`,
      fixed(server_cpu_us, 0),
    ]),
  );
}

function memoryTable({ concurrency, weights, growth, target }: Memory): string[] {
  return [
    ...table(
      [
        `one worker, ${concurrency} runs at a time, after runs`,
        "RSS, MB",
        "heap in use, MB",
        "runs/s so far",
      ],
      weights.map(({ runs, seconds, rss_mb, heap_mb }) => [
        count(runs),
        fixed(rss_mb, 0),
        fixed(heap_mb, 0),
        whole(runs / seconds),
      ]),
    ),
    "",
    ...table(
      ["RSS, median of the last quarter over that of the second", "ratio", "target", "reached"],
      [["flat", fixed(growth, 2), `≤ ${target}`, growth <= target ? "yes" : "no"]],
    ),
  ];
}

function whole(value: number): string {
  return Number.isNaN(value) ? "" : count(Math.round(value));
}
