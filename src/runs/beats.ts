// The beat of a worker: it says every few seconds that it lives and what it runs, and hears which runs must end.
import { setTimeout as sleep } from "node:timers/promises";
import type { Logger } from "pino";
import { AppError } from "../errors.ts";
import type { RunAttempt, Verdict } from "../jobs.ts";

/** A quarter of the lease that SQL gives, so that three beats in a row may be lost. */
const EVERY_MS = 5_000;
const AFTER_FAILURE_MS = 1_000;
/** A beat that takes longer than this is given up and sent again. */
const PATIENCE_MS = 5_000;

/** An attempt that goes on; `abort` ends it early, and does nothing once its handler has ended. */
export type LiveAttempt = RunAttempt & { abort(reason: AppError): void };

/** Sends one beat for these attempts. */
export type Beat = (running: readonly RunAttempt[], signal: AbortSignal) => Promise<Verdict[]>;

/** Beats that go on. */
export type Beats = {
  /** No beat is under way any more when it resolves. */
  stop(): Promise<void>;
};

/**
 * Beats for all of `live` at once, first now: resolves when that beat, which makes the worker known, has arrived. Throws
 * what it threw. Later ones that fail are logged and sent again.
 */
export async function startBeats(beat: Beat, live: ReadonlySet<LiveAttempt>, log: Logger): Promise<Beats> {
  const stopping = new AbortController();

  async function once(): Promise<void> {
    const running = [...live];
    const verdicts = await beat(
      running,
      AbortSignal.any([AbortSignal.timeout(PATIENCE_MS), stopping.signal]),
    );
    for (const verdict of verdicts) {
      const named = running.find((each) => each.runId === verdict.runId && each.attempt === verdict.attempt);
      named?.abort(new AppError(verdict.verdict === "cancelled" ? "job_cancelled" : "job_run_fenced"));
    }
  }

  async function goOn(): Promise<void> {
    let pauseMs = EVERY_MS;
    while (await pause(pauseMs, stopping.signal)) {
      try {
        await once();
        pauseMs = EVERY_MS;
      } catch (error) {
        if (stopping.signal.aborted) return;
        log.warn({ err: error }, "worker_beat_failed");
        pauseMs = AFTER_FAILURE_MS;
      }
    }
  }

  await once();
  const ended = goOn();
  return {
    stop() {
      stopping.abort();
      return ended;
    },
  };
}

/** Whether it was slept through. */
async function pause(ms: number, signal: AbortSignal): Promise<boolean> {
  return sleep(ms, true, { signal }).catch(() => false);
}
