// All SQL plumbing: pools, and one function that calls a contract function as one statement for one tenant.
import pg from "pg";
import type { z } from "zod";
import { AppError, translate } from "./errors.ts";
import { mintTicket, type TicketKey } from "./tickets.ts";

export type { TicketKey };

/** Where calls go, and the key that mints their tickets. */
export type Db = { pool: pg.Pool; ticketKey: TicketKey };

/** `timeoutMs` bounds each statement in the server; `signal` gives up waiting and destroys the connection. */
export type CallOptions = { signal?: AbortSignal | undefined; timeoutMs?: number | undefined };

const STATEMENT_TIMEOUT_MS = 15_000;

/** A pool whose every wait is bounded: 5 s for a connection, 15 s for a statement, 15 s idle inside a transaction. */
export function createPool(config: pg.PoolConfig & { application_name: string }): pg.Pool {
  const pool = new pg.Pool({
    connectionTimeoutMillis: 5_000,
    idleTimeoutMillis: 30_000,
    statement_timeout: STATEMENT_TIMEOUT_MS,
    idle_in_transaction_session_timeout: STATEMENT_TIMEOUT_MS,
    ...config,
  });
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
  return lend(db.pool, options, async (client) => {
    const ticket = mintTicket(db.ticketKey, tenantId, backendPid(client));
    const result = await query(client, text, [tenantId, ticket, ...values], options);
    return result.rows.map((each) => row.parse(each));
  });
}

/** Calls a function that sees all tenants and so takes no ticket. */
export async function systemCall<T>(
  db: { pool: pg.Pool },
  text: string,
  values: unknown[],
  row: z.ZodType<T>,
  options: CallOptions = {},
): Promise<T[]> {
  return lend(db.pool, options, async (client) => {
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
 * statement that SQL refused by name has ended its transaction whole, and keeps its connection: refusals must stay cheap.
 */
async function lend<T>(
  pool: pg.Pool,
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
    const known = translate(error);
    if (client !== undefined) client.release(timeoutMs !== undefined || !isPlainRefusal(known, error));
    else connecting.then((late) => late.release()).catch(() => {}); // nobody waits for it any more
    throw known;
  } finally {
    signal?.removeEventListener("abort", onAbort);
  }
}

/** What SQL raised on purpose, and was not about who may be here. */
function isPlainRefusal(known: unknown, raised: unknown): boolean {
  return known instanceof AppError && known.cause === raised && known.code !== "rls_enforcement_failed";
}

/** The backend behind a connection; node-pg has it from the server's greeting but does not type it. */
function backendPid(client: pg.PoolClient): number {
  return (client as unknown as { processID: number | null }).processID ?? 0;
}
