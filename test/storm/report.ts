// How much a storm did, in figures.
import type { Weather } from "./main.ts";

/** The figures by name; `told` has the lines of each process. */
export function countsOf(told: readonly string[][][], weather: Weather): [string, string | number][] {
  const words: Record<string, number> = {};
  const refusals: Record<string, number> = {};
  const times: number[] = [];
  let fresh = 0;
  for (const [word, , , , , kind, ms] of told.flat()) {
    words[word!] = (words[word!] ?? 0) + 1;
    if (word !== "held") continue;
    if (kind === "new") fresh += 1;
    times.push(Number(ms));
  }
  for (const [word, , reason, ms] of told.flat()) {
    if (word !== "refused") continue;
    refusals[reason!] = (refusals[reason!] ?? 0) + 1;
    times.push(Number(ms));
  }
  times.sort((a, b) => a - b);
  const at = (share: number) => times[Math.floor(share * (times.length - 1))] ?? 0;
  const count = (word: string) => words[word] ?? 0;
  return [
    ["seconds", weather.seconds.toFixed(1)],
    ["seconds without the server", (weather.crashMs / 1_000).toFixed(1)],
    ["asked for", count("held") + count("refused")],
    ["reservations", fresh],
    ["reservations per second", (fresh / weather.seconds).toFixed(0)],
    ["asks per second", (times.length / weather.seconds).toFixed(0)],
    ["reserve p50, ms", at(0.5).toFixed(1)],
    ["reserve p99, ms", at(0.99).toFixed(1)],
    ["replays of a key", count("held") - fresh],
    ...Object.entries(refusals).map(([reason, n]): [string, number] => [`refused: ${reason}`, n]),
    ["refused: idempotency_conflict", count("conflicts")],
    ["refused: reservation_closed", count("closed")],
    ["budget_busy", count("busy")],
    ["clamped", count("clamped")],
    ["settles", count("settled")],
    ["settles of a part", count("part")],
    ["released", count("released")],
    ["presumed", count("presumed")],
    ["extended", count("extended")],
    ["abandoned", count("abandons")],
    ["lost connections", count("away")],
    ["expired or resolved by the sweepers", weather.swept],
    ["limits raised", weather.raised],
  ];
}
