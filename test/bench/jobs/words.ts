// What the bench and its workers say to each other.

/** Our worker, the same with a claim for each run, and other queues. */
export type Work = "ours" | "single" | "graphile" | "bossWork" | "bossBatches" | "bossLoops";

/** What works, and on what; with `tells`, it says when each run starts. */
export type Order = { work: Work; url: string; concurrency: number; tells: boolean };

/** How often a worker has asked the server to give it tokens, to claim runs, to complete runs, to remove tokens. */
export type Calls = { take: number; claim: number; end: number; drop: number };

/** What a worker has done, when it last ended a run, what it has asked, and what it has used. */
export type Reading = {
  done: number;
  lastAt: number;
  calls: Calls | undefined;
  cpuSeconds: number;
  rssBytes: number;
  heapBytes: number;
  /** Whether it has ended by itself, for want of work. */
  isOver: boolean;
};

/** What a worker says of itself. */
export type Word = { ready: true } | { started: string; at: number } | { reading: Reading };

/** Milliseconds of a clock that all processes of this host share. */
export function clock(): number {
  return Number(process.hrtime.bigint()) / 1e6;
}
