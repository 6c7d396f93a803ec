// The figures as tables in markdown, the targets beside them.
import { median } from "../rls/rounds.ts";
import { count, fixed, table } from "../tables.ts";
import type { EnqueueRate } from "./enqueue.ts";
import type { Latency } from "./latency.ts";
import type { Weight } from "./memory.ts";
import { type Round, SIDES, type SideName } from "./sides.ts";

/** A side at a concurrency, or on empty tables: medians of its rounds; CPU in µs per run. */
export type Line = {
  side: SideName;
  concurrency: number;
  empty: boolean;
  per_second: number;
  slowest: number;
  fastest: number;
  server_cpu_us: number | undefined;
  client_cpu_us: number;
  rss_mb: number;
  rounds: Round[];
};

/** One side over another: the median over the rounds of their ratio, and the least and greatest. */
export type Ratio = {
  what: string;
  concurrency: number;
  value: number;
  least: number;
  most: number;
  target: number;
};

/** All figures of one server. */
export type Report = {
  server_version: string;
  settings: string;
  tenants: number;
  rounds: number;
  seconds: number;
  lines: Line[];
  ratios: Ratio[];
  latency: Latency | null;
  enqueue: EnqueueRate[];
  memory: Weight[];
};

/** The rounds of a side, in one line. */
export function lineOf(side: SideName, concurrency: number, empty: boolean, rounds: Round[]): Line {
  const rates = rounds.map((round) => round.perSecond);
  const cpu = rounds.flatMap((round) => (round.serverCpu === undefined ? [] : [round.serverCpu]));
  return {
    side,
    concurrency,
    empty,
    per_second: median(rates),
    slowest: Math.min(...rates),
    fastest: Math.max(...rates),
    server_cpu_us: cpu.length === 0 ? undefined : median(cpu),
    client_cpu_us: median(rounds.map((round) => round.clientCpu)),
    rss_mb: median(rounds.map((round) => round.rssMb)),
    rounds,
  };
}

const COMPARED = [
  { what: "worker / pgbench, chunked", one: "ours", other: "pgbenchChunked", target: 0.8 },
  {
    what: "a claim for each run / pg-boss fetch(1) and complete",
    one: "single",
    other: "bossLoops",
    target: 1.5,
  },
  { what: "worker / pg-boss fetch(1) and complete", one: "ours", other: "bossLoops", target: 1.5 },
] as const;

/** What was measured in the same rounds, compared round by round. */
export function ratiosOf(lines: Line[]): Ratio[] {
  const measured = lines.filter((line) => !line.empty);
  return COMPARED.flatMap(({ what, one, other, target }) =>
    [...new Set(measured.map((line) => line.concurrency))].flatMap((concurrency) => {
      const of = (side: SideName) =>
        measured.find((line) => line.side === side && line.concurrency === concurrency)?.rounds;
      const [ones, others] = [of(one), of(other)];
      if (ones === undefined || others === undefined) return [];
      const values = ones.map((round, at) => round.perSecond / others[at]!.perSecond);
      const [least, most] = [Math.min(...values), Math.max(...values)];
      return [{ what, concurrency, value: median(values), least, most, target }];
    }),
  );
}

/** All tables. */
export function asMarkdown(report: Report): string {
  const { server_version, settings, tenants, rounds, seconds } = report;
  return [
    `### PostgreSQL ${server_version} (${settings}): ${count(tenants)} tenants, ${rounds} rounds of ${seconds} s`,
    "",
    ...(report.lines.length === 0 ? [] : linesTable(report.lines)),
    ...(report.ratios.length === 0 ? [] : ["", ...ratiosTable(report.ratios)]),
    ...(report.latency === null ? [] : ["", ...latencyTable(report.latency)]),
    ...(report.enqueue.length === 0 ? [] : ["", ...enqueueTable(report.enqueue)]),
    ...(report.memory.length === 0 ? [] : ["", ...memoryTable(report.memory)]),
  ].join("\n");
}

function linesTable(lines: Line[]): string[] {
  return table(
    [
      "no-op runs",
      "at a time",
      "runs/s",
      "slowest to fastest",
      "PostgreSQL's CPU, µs",
      "client's, µs",
      "RSS, MB",
    ],
    lines.map((line) => [
      SIDES[line.side].name + (line.empty ? ", begun on empty tables" : ""),
      String(line.concurrency),
      whole(line.per_second),
      `${whole(line.slowest)} to ${whole(line.fastest)}`,
      fixed(line.server_cpu_us, 0),
      fixed(line.client_cpu_us, 0),
      fixed(line.rss_mb, 0),
    ]),
  );
}

function ratiosTable(ratios: Ratio[]): string[] {
  return table(
    ["ratio", "at a time", "median", "least to greatest", "target"],
    ratios.map(({ what, concurrency, value, least, most, target }) => [
      what,
      String(concurrency),
      fixed(value, 2),
      `${fixed(least, 2)} to ${fixed(most, 2)}`,
      `≥ ${target}`,
    ]),
  );
}

function latencyTable({ samples, p50, p95, p99, most, enqueue_p50 }: Latency): string[] {
  return table(
    [
      "from app.job_enqueue to the start, idle",
      "p50, ms",
      "p95, ms",
      "target",
      "p99, ms",
      "longest, ms",
      "its call alone, p50",
    ],
    [
      [
        `${samples} samples`,
        fixed(p50, 1),
        fixed(p95, 1),
        "< 10",
        fixed(p99, 1),
        fixed(most, 1),
        fixed(enqueue_p50, 1),
      ],
    ],
  );
}

function enqueueTable(rates: EnqueueRate[]): string[] {
  return table(
    ["made, with no worker", "per second", "slowest to fastest", "PostgreSQL's CPU, µs"],
    rates.map(({ way, rounds, per_second, server_cpu_us }) => [
      way,
      whole(per_second),
      `${whole(Math.min(...rounds))} to ${whole(Math.max(...rounds))}`,
      fixed(server_cpu_us, 0),
    ]),
  );
}

function memoryTable(weights: Weight[]): string[] {
  return table(
    ["one worker, after runs", "RSS, MB", "runs/s"],
    weights.map(({ runs, seconds, rss_mb }) => [count(runs), fixed(rss_mb, 0), whole(runs / seconds)]),
  );
}

function whole(value: number): string {
  return Number.isNaN(value) ? "" : count(Math.round(value));
}
