// How much of an attempt is done: said as often as its task likes, written once a second.
import { setTimeout as sleep } from "node:timers/promises";

const EVERY_MS = 1_000;

/** What an attempt says of itself; `end` drops what was not written yet. */
export type Progress = { report(done: number, text?: string): void; end(): void };

/** Writes the last word, once a second at most and one write at a time. What `write` throws is its own affair. */
export function throttledProgress(
  write: (done: number, text: string | undefined) => Promise<void>,
): Progress {
  let last: { done: number; text: string | undefined } | undefined;
  let isWriting = false;
  let hasEnded = false;

  async function writeAll(): Promise<void> {
    isWriting = true;
    while (last !== undefined && !hasEnded) {
      const { done, text } = last;
      last = undefined;
      await Promise.all([write(done, text).catch(() => {}), sleep(EVERY_MS, undefined, { ref: false })]);
    }
    isWriting = false;
  }

  return {
    report(done, text) {
      if (hasEnded || Number.isNaN(done)) return;
      last = { done: Math.min(1, Math.max(0, done)), text };
      if (!isWriting) void writeAll();
    },
    end() {
      hasEnded = true;
    },
  };
}
