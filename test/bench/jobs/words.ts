// What the bench and its workers say to each other.

/** Our worker, the same with a claim for each run, and other queues. */
export type Work = "ours" | "single" | "graphile" | "bossWork" | "bossBatches" | "bossLoops";

/** What works, and on what; with `tells`, it says when each run starts. */
export type Order = { work: Work; url: string; concurrency: number; tells: boolean };

/** What a worker has done, when it last ended a run, and what it has used. */
export type Reading = { done: number; lastAt: number; cpuSeconds: number; rssBytes: number };

/** What a worker says of itself. */
export type Word = { ready: true } | { started: string; at: number } | { reading: Reading };

/** Milliseconds of a clock that all processes of this host share. */
export function clock(): number {
  return Number(process.hrtime.bigint()) / 1e6;
}
