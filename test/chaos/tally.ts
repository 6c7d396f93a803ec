// What chaos has counted: its deeds, how they ended, and the errors of SQL that it met.
import pg from "pg";
import type { Deed } from "./plan.ts";

/** How often a deed was done, and how often the database refused it or was away. */
export type Deeds = Record<string, { done: number; refused: number }>;

/** The counts of one chaos. */
export class Tally {
  readonly deeds: Deeds = {};
  /** By "where SQLSTATE message"; those alone that nothing of ours explains. */
  readonly surprises: Record<string, number> = {};
  readonly refusals: Record<string, number> = {};
  /** The queue's schema is away, and what needs it says so. */
  isQueueAway = false;

  done(deed: Deed, times = 1): void {
    this.#of(deed).done += times;
  }

  refused(deed: Deed, error: unknown): void {
    this.#of(deed).refused += 1;
    this.met(deed, error);
  }

  /** An error that something of chaos met: either it was to be, or it is a surprise. */
  met(where: string, error: unknown): void {
    const text = `${where}: ${nameOf(error)}`;
    const counts = this.#isExpected(error) ? this.refusals : this.surprises;
    counts[text] = (counts[text] ?? 0) + 1;
  }

  #of(deed: string): { done: number; refused: number } {
    this.deeds[deed] ??= { done: 0, refused: 0 };
    return this.deeds[deed];
  }

  #isExpected(error: unknown): boolean {
    if (!(error instanceof Error)) return false;
    const code = String((error as { code?: unknown }).code ?? "");
    if (isAway(error, code)) return true;
    if (this.isQueueAway && /^(3F000|42P01|42883|42704|42501|XX000)$/.test(code)) return true;
    // Ours, and locks that were given up or waited for in vain.
    return /^(JB|TN|OP|LB|SC|AP)\d/.test(code) || /^[a-z_]+$/.test(code) || ["55P03", "57014"].includes(code);
  }
}

/** The server is stopping, starting, or gone; or a connection was cut. */
function isAway(error: Error, code: string): boolean {
  return (
    /^(57P0[1-5]|08...|ECONN\w+|EPIPE|ENOENT|53300)$/.test(code) ||
    /Connection terminated|timeout exceeded when trying to connect|connection timeout|Client has encountered/i.test(
      error.message,
    )
  );
}

function nameOf(error: unknown): string {
  if (error instanceof pg.DatabaseError) return `${error.code} ${error.message}`.slice(0, 160);
  return String(error instanceof Error ? ((error as { code?: string }).code ?? error.message) : error).slice(
    0,
    160,
  );
}
