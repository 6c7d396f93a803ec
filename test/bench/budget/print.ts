// What the rounds come to: a line for each side, and the targets beside what was reached.
import { type Conditions, conditionLines } from "../conditions.ts";
import { median } from "../rls/rounds.ts";
import { count, fixed, table } from "../tables.ts";
import type { Spread } from "./scene.ts";
import { type Round, SIDES, type Side } from "./sides.ts";

/** One side at so many callers: medians of the rounds. Waits in ms; those of pgbench are of a whole batch. */
export type Line = {
  side: Side;
  spread: Spread;
  callers: number;
  per_second: number;
  p50_ms: number;
  p99_ms: number;
  batch: number;
};

/** What was to be reached, and what was. */
export type Target = { what: string; target: string; reached: number | undefined; met: boolean | undefined };

export type Report = {
  conditions: Conditions;
  tenants: number;
  rounds: number;
  seconds: number;
  lines: Line[];
  targets: Target[];
};

export function lineOf(side: Side, spread: Spread, callers: number, rounds: Round[]): Line {
  const of = (name: keyof Round) => median(rounds.map((each) => each[name]));
  return {
    side,
    spread,
    callers,
    per_second: of("perSecond"),
    p50_ms: of("p50"),
    p99_ms: of("p99"),
    batch: of("batch"),
  };
}

/** On the hot tenant, at 64 callers; what was not measured is left open. */
export function targetsOf(lines: Line[]): Target[] {
  const find = (side: Side, callers: number) =>
    lines.find((line) => line.spread === "hot" && line.side === side && line.callers === callers);
  const ratio = (what: string, one: Side, other: Side, least: number): Target => {
    const [above, below] = [find(one, 64), find(other, 64)];
    const reached = above && below && above.per_second / below.per_second;
    return {
      what: `${what}, at 64 callers`,
      target: `≥ ${least}`,
      reached,
      met: reached && reached >= least,
    } as Target;
  };
  const p99 = find("coalesced", 16)?.p99_ms;
  return [
    ratio("(c) / (b)", "coalesced", "single", 8),
    ratio("(c) / (a)", "coalesced", "textbook", 20),
    ratio("(c) / (d)", "coalesced", "batches", 0.5),
    ratio("(d) / (e)", "batches", "floor", 0.7),
    {
      what: "p99 of (c) at 16 callers, ms",
      target: "< 10",
      reached: p99,
      met: p99 === undefined ? undefined : p99 < 10,
    },
  ];
}

/** The conditions, a table for each spread, and the targets. */
export function asMarkdown({ conditions, tenants, rounds, seconds, lines, targets }: Report): string {
  const parts = (["hot", "many"] as const).map((spread) => {
    const named = spread === "hot" ? "One hot tenant" : `${count(tenants)} tenants`;
    return [
      `### ${named}: medians of ${rounds} rounds of ${seconds} s`,
      "",
      ...table(
        ["", "callers", "reservations/s", "p50, ms", "p99, ms", "in a batch"],
        lines
          .filter((line) => line.spread === spread)
          .map((line) => [
            SIDES[line.side],
            String(line.callers),
            count(Math.round(line.per_second)),
            fixed(line.p50_ms, 2),
            fixed(line.p99_ms, 2),
            fixed(line.batch, 1),
          ]),
      ),
      "",
    ];
  });
  return [
    ...conditionLines(conditions),
    "",
    ...parts.flat(),
    "### On the hot tenant",
    "",
    ...table(
      ["", "target", "reached", "met"],
      targets.map(({ what, target, reached, met }) => [
        what,
        target,
        fixed(reached, 2),
        met === undefined ? "" : met ? "yes" : "**no**",
      ]),
    ),
  ].join("\n");
}
