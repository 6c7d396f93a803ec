// Under what a bench ran, so that a figure can be repeated, and a noisy one be seen.
import { readFileSync } from "node:fs";
import { availableParallelism, cpus, loadavg } from "node:os";
import { withClient } from "../../src/migrate.ts";
import type { BenchServer } from "./server.ts";

/** The machine, the server, and what else went on: loads are the averages of a minute. */
export type Conditions = {
  began_at: string;
  seconds: number;
  machine: string;
  cores: number;
  node_version: string;
  server_version: string;
  server_settings: Record<string, string>;
  load_at_start: number;
  load_at_end: number;
  /** Of the time of all cores, what the host gave to others meanwhile; undefined where that is not told. */
  stolen_percent: number | undefined;
};

const TOLD = [
  "fsync",
  "synchronous_commit",
  "full_page_writes",
  "shared_buffers",
  "max_wal_size",
  "checkpoint_timeout",
  "autovacuum",
  "jit",
];

/** Looks at the machine now; what it gives looks again, at the end. */
export function observed(): (server: BenchServer) => Promise<Conditions> {
  const began = performance.now();
  const began_at = new Date().toISOString();
  const load_at_start = loadavg()[0]!;
  const before = ticksOfCores();
  return async (server) => {
    const after = ticksOfCores();
    const stolen = after && before && (after.stolen - before.stolen) / (after.all - before.all);
    return {
      began_at,
      seconds: (performance.now() - began) / 1000,
      machine: cpus()[0]?.model.trim() ?? "unknown",
      cores: availableParallelism(),
      node_version: process.versions.node,
      server_version: server.version,
      server_settings: await settingsOf(server),
      load_at_start,
      load_at_end: loadavg()[0]!,
      stolen_percent: stolen && stolen * 100,
    };
  };
}

/** A line for each part, to stand above the tables. */
export function conditionLines(conditions: Conditions): string[] {
  const { server_version, server_settings, node_version, machine, cores, began_at, seconds } = conditions;
  const settings = Object.entries(server_settings).map(([name, value]) => `${name} ${value}`);
  const { load_at_start, load_at_end, stolen_percent } = conditions;
  const stolen = stolen_percent === undefined ? "" : `, ${stolen_percent.toFixed(1)} % stolen by the host`;
  return [
    `- PostgreSQL ${server_version}: ${settings.join(", ")}`,
    `- ${cores} cores, ${machine}; Node ${node_version}; ${began_at}, ${Math.round(seconds)} s`,
    `- load of the machine: ${load_at_start.toFixed(2)} at the start, ${load_at_end.toFixed(2)} at the end, the bench's own included${stolen}`,
    ...(isNoisy(conditions)
      ? [
          "- **noisy**: something else ran when it began; compare no figure of this run with one of another run",
        ]
      : []),
  ];
}

/** Whether a quarter of the machine was busy before, or the host was. */
function isNoisy({ load_at_start, cores, stolen_percent }: Conditions): boolean {
  return load_at_start > cores / 4 || (stolen_percent ?? 0) > 3;
}

async function settingsOf(server: BenchServer): Promise<Record<string, string>> {
  return withClient(server.administrator, async (client) => {
    const { rows } = await client.query<{ name: string; value: string }>(
      "select name, current_setting(name) as value from unnest($1::text[]) as name",
      [TOLD],
    );
    return Object.fromEntries(rows.map(({ name, value }) => [name, value]));
  });
}

/** proc(5): the eighth is what other guests of the host had. */
function ticksOfCores(): { all: number; stolen: number } | undefined {
  try {
    const ticks = readFileSync("/proc/stat", "utf8")
      .split("\n")[0]!
      .trim()
      .split(/\s+/)
      .slice(1, 9)
      .map(Number);
    return { all: ticks.reduce((sum, each) => sum + each, 0), stolen: ticks[7]! };
  } catch {
    return undefined; // this is no Linux
  }
}
