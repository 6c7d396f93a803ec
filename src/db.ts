// All SQL plumbing: pools, and one function that calls a contract function as one statement for one tenant.
import pg from "pg";
import type { z } from "zod";
import { AppError, isRlsRefusal, translate } from "./errors.ts";
import { mintTicket, STATEMENT_MS, type TicketBinding, type TicketKey } from "./tickets.ts";

export type { TicketKey };

/** Where calls go, and the key that mints their tickets. */
export type Db = {
  pool: pg.Pool;
  ticketKey: TicketKey;
  /** What the database says that tickets of the key must name, learned once at the start; unsaid, the backend. */
  ticketBinding?: TicketBinding | undefined;
  /** Told of every `rls_enforcement_failed`, once each, in whatever part of the program it ends. */
  onRlsRefusal?: (() => void) | undefined;
  /** How calls of the budget functions behave, and who is told of them. */
  budgets?: BudgetCalls | undefined;
};

/** `lockTimeoutMs` bounds the wait for a budget that others keep locked; unsaid, 3 s. */
export type BudgetCalls = {
  lockTimeoutMs?: number | undefined;
  observe?: ObserveBudgets | undefined;
};

/** Where the coalescer tells what it did. */
export type ObserveBudgets = {
  /** So many items went together in one statement. */
  batch(size: number): void;
  /** One item was refused, by the reason of `budget_exceeded` or the name of the error. */
  refused(reason: string): void;
  /** So many items met a budget that was locked for too long. */
  busy(count: number): void;
};

/** `timeoutMs` bounds each statement in the server; `signal` gives up waiting and destroys the connection. */
export type CallOptions = { signal?: AbortSignal | undefined; timeoutMs?: number | undefined };

/** How long a connection that was refused something may take to be cleaned, before it is destroyed instead. */
const CLEANING_MS = 2_000;

/**
 * A pool whose every wait is bounded: 5 s for a connection here, and for statements and idle transactions 15 s by the
 * settings of its login (sql/roles.sql). It asks nothing of the server at its start, for a transaction pooler refuses.
 */
export function createPool(config: pg.PoolConfig & { application_name: string }): pg.Pool {
  const pool = new pg.Pool({ connectionTimeoutMillis: 5_000, idleTimeoutMillis: 30_000, ...config });
  // A connection that dies while idle is replaced at the next call; without a listener Node would exit.
  pool.on("error", () => {});
  pool.on("connect", (client) => client.on("error", () => {}));
  return pool;
}

/**
 * Calls one contract function: `$1` and `$2` of the text are the tenant and a fresh ticket, `$3` and on are `values`.
 * Each row is parsed by `row`. Throws `AppError` for what SQL raised by name.
 */
export async function call<T>(
  db: Db,
  tenantId: string,
  text: string,
  values: unknown[],
  row: z.ZodType<T>,
  options: CallOptions = {},
): Promise<T[]> {
  return lend(db, options, async (client) => {
    const deadline = Date.now() + (options.timeoutMs ?? STATEMENT_MS);
    const ticket = ticketFor(db, client, tenantId, deadline);
    const result = await query(client, text, [tenantId, ticket, ...values], options);
    return result.rows.map((each) => row.parse(each));
  });
}

/** Calls a function that sees all tenants and so takes no ticket. */
export async function systemCall<T>(
  db: Pick<Db, "pool" | "onRlsRefusal">,
  text: string,
  values: unknown[],
  row: z.ZodType<T>,
  options: CallOptions = {},
): Promise<T[]> {
  return lend(db, options, async (client) => {
    const result = await query(client, text, values, options);
    return result.rows.map((each) => row.parse(each));
  });
}

/** One statement, or a short transaction where the statement has a time limit of its own. */
async function query(
  client: pg.PoolClient,
  text: string,
  values: unknown[],
  options: CallOptions,
): Promise<pg.QueryResult> {
  if (options.timeoutMs === undefined) return client.query(text, values);
  await client.query("begin");
  // In a statement of its own: a timeout set inside the statement that it should limit does nothing.
  await client.query("select set_config('statement_timeout', $1, true)", [
    String(Math.max(1, Math.ceil(options.timeoutMs))),
  ]);
  const result = await client.query(text, values);
  await client.query("commit");
  return result;
}

/**
 * Lends a connection. After an error it is destroyed, never pooled again: nothing of one tenant meets the next. A single
 * statement that SQL refused by name has ended its transaction whole: its connection is cleaned and kept, for refusals
 * must stay cheap.
 */
async function lend<T>(
  { pool, onRlsRefusal }: Pick<Db, "pool" | "onRlsRefusal">,
  { signal, timeoutMs }: CallOptions,
  work: (client: pg.PoolClient) => Promise<T>,
): Promise<T> {
  signal?.throwIfAborted();
  const aborted = Promise.withResolvers<never>();
  aborted.promise.catch(() => {}); // awaited only in races, which may be over
  const onAbort = () => aborted.reject(signal?.reason);
  signal?.addEventListener("abort", onAbort, { once: true });
  const connecting = pool.connect();
  let client: pg.PoolClient | undefined;
  try {
    client = await Promise.race([connecting, aborted.promise]);
    const result = await Promise.race([work(client), aborted.promise]);
    client.release();
    return result;
  } catch (error) {
    const known = knownError({ onRlsRefusal }, error);
    if (client === undefined)
      connecting.then((late) => late.release()).catch(() => {}); // nobody waits any more
    else if (timeoutMs === undefined && isPlainRefusal(known, error)) void clean(client);
    else client.release(true);
    throw known;
  } finally {
    signal?.removeEventListener("abort", onAbort);
  }
}

/**
 * Gives a connection back with nothing in its session, while the caller has its answer already. Destroys it when that
 * fails or takes long. Behind a transaction pooler it is the pooler's session of that moment that is cleaned.
 */
export async function clean(client: pg.PoolClient): Promise<void> {
  const { promise: late, resolve } = Promise.withResolvers<boolean>();
  const timer = setTimeout(resolve, CLEANING_MS, false);
  const discarded = client.query("discard all").then(
    () => true,
    () => false,
  );
  const isClean = await Promise.race([discarded, late]);
  clearTimeout(timer);
  client.release(!isClean);
}

/** What SQL raised on purpose, and was not about who may be here. */
function isPlainRefusal(known: unknown, raised: unknown): boolean {
  return known instanceof AppError && known.cause === raised && !isRlsRefusal(known);
}

/** The name of what a statement of `db` raised, if it has one; a tenant that was refused is told of. */
export function knownError({ onRlsRefusal }: Pick<Db, "onRlsRefusal">, error: unknown): unknown {
  const known = translate(withoutParameters(error));
  if (isRlsRefusal(known)) onRlsRefusal?.();
  return known;
}

/** Where log_parameter_max_length_on_error is set, the server quotes the parameters of a call, its ticket with them. */
function withoutParameters(error: unknown): unknown {
  if (error instanceof pg.DatabaseError && error.where !== undefined) {
    error.where = error.where.replace(/^[^\n]*\$\d+ = [\s\S]*/m, "").trimEnd();
  }
  return error;
}

/** A ticket for what `client` is asked next; `deadline` in ms of Unix time. */
export function ticketFor(db: Db, client: pg.PoolClient, tenantId: string, deadline: number): string {
  return mintTicket(db.ticketKey, tenantId, db.ticketBinding === "none" ? 0 : backendPid(client), deadline);
}

/** The backend behind a connection; node-pg has it from the server's greeting but does not type it. */
function backendPid(client: pg.PoolClient): number {
  return (client as unknown as { processID: number | null }).processID ?? 0;
}
