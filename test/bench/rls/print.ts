// The figures as tables in markdown: a limit beside each, and the spread of the tenths of the run.

import { count, table } from "../tables.ts";
import type { InsideResult } from "./inside.ts";
import type { QueryResult } from "./queries.ts";
import type { Figure } from "./rounds.ts";
import type { Size } from "./scene.ts";

/** All figures of one server. */
export type Report = Size & { server_version: string; queries: QueryResult[]; inside: InsideResult[] };

/** Three tables: prepared queries, what PL/pgSQL sees, and queries that are planned each time. */
export function asMarkdown({ server_version, rows, tenants, queries, inside }: Report): string {
  const prepared = queries.filter((query) => query.prepared);
  const planned = queries.filter((query) => !query.prepared);
  return [
    `### PostgreSQL ${server_version}: ${count(rows)} rows of ${count(tenants)} tenants in each table`,
    "",
    ...table(
      [
        "round trip of one prepared client",
        "plain, µs",
        "isolated, µs",
        "isolated / plain",
        "80 % of the run",
        "limit",
        "tenant named too",
        "through the fence, µs",
      ],
      prepared.map((query) => [
        ...rowOf(query),
        ratio(query.target),
        ratio(query.named_ratio?.value),
        query.fenced_us === null ? "" : micros(query.fenced_us),
      ]),
    ),
    "",
    ...table(
      ["cost of isolation", "without, µs", "with, µs", "cost, µs", "80 % of the run, µs", "limit, µs"],
      inside.map(({ what, without_us, with_us, cost_us, target_us }) => [
        what,
        micros(without_us),
        micros(with_us),
        micros(cost_us.value),
        spread(cost_us, micros),
        target_us === null ? "" : String(target_us),
      ]),
    ),
    "",
    ...table(
      [
        "for information: planned each time",
        "plain, µs",
        "isolated, µs",
        "isolated / plain",
        "80 % of the run",
        "tenant named too",
        "through the fence, µs",
      ],
      planned.map((query) => [
        ...rowOf(query),
        ratio(query.named_ratio?.value),
        query.fenced_us === null ? "" : micros(query.fenced_us),
      ]),
    ),
  ].join("\n");
}

function rowOf({ query, plain_us, isolated_us, ratio: figure }: QueryResult): string[] {
  return [query, micros(plain_us), micros(isolated_us), ratio(figure.value), spread(figure, ratio)];
}

function spread({ low, high }: Figure, text: (value: number) => string): string {
  return `${text(low)} to ${text(high)}`;
}

function ratio(value: number | null | undefined): string {
  return value === null || value === undefined ? "" : value.toFixed(2);
}

function micros(value: number): string {
  return value >= 1000 ? count(Math.round(value)) : value.toFixed(1);
}
