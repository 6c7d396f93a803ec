// How tests of the contract speak SQL: one statement for one tenant, what it refuses, and a stranger who tries it.
import { randomUUID } from "node:crypto";
import type pg from "pg";
import { expect } from "vitest";
import type { Db } from "../../src/db.ts";
import { AppError, translate } from "../../src/errors.ts";
import { mintTicket } from "../../src/tickets.ts";
import type { TestDatabase, TestTenant } from "./database.ts";

// biome-ignore lint/suspicious/noExplicitAny: a test names the columns that it looks at, and expects say what they hold
export type Row = Record<string, any>;

/**
 * Rows of a statement whose `$1` and `$2` are the tenant and its ticket. Throws `AppError` for what SQL raised by name.
 * The connection is kept after a refusal: whole files of them would else spend their time connecting.
 */
export async function as(db: Db, tenantId: string, text: string, values: unknown[] = []): Promise<Row[]> {
  const client = await db.pool.connect();
  try {
    return (await client.query(text, [tenantId, mintTicket(db.ticketKey, tenantId, 0), ...values])).rows;
  } catch (error) {
    throw translate(error);
  } finally {
    client.release();
  }
}

/** The only row of such a statement. */
export async function oneAs(db: Db, tenantId: string, text: string, values: unknown[] = []): Promise<Row> {
  const rows = await as(db, tenantId, text, values);
  expect(rows).toHaveLength(1);
  return rows[0]!;
}

/** The error of that name with which a call is refused; fails when it succeeds or is refused otherwise. */
export async function refusal(called: Promise<unknown>, code: string): Promise<AppError> {
  const outcome = await called.then(
    (value) => ({ succeeded: value }),
    (error: unknown) => error,
  );
  expect(outcome, `a refusal by ${code}`).toBeInstanceOf(AppError);
  const error = outcome as AppError;
  expect(error.code).toBe(code);
  return error;
}

/** All that SQL said when it refused: two refusals that say the same are the same bytes. */
export function bytesOf(refused: AppError): string {
  const said = refused.cause as Record<string, unknown>;
  expect(said).toMatchObject({ severity: "ERROR", code: refused.sqlstate });
  return JSON.stringify([["message", said["message"]], ...Object.entries(said)], null, 1);
}

/**
 * A stranger with a good ticket of its own calls for `tenantId`, then for itself and for nobody: refused each time the
 * tenant and the ticket do not belong together. `text` is a statement as `as` takes it. Gives the stranger.
 */
export async function strangerIsRefused(
  database: TestDatabase,
  db: Db,
  tenantId: string,
  text: string,
  values: unknown[] = [],
): Promise<TestTenant> {
  const stranger = await database.addTenant();
  const tickets = [database.ticket(stranger.tenantId), null, "", database.ticket(randomUUID())];
  for (const ticket of tickets) {
    const refused = await db.pool.query(text, [tenantId, ticket, ...values]).catch((error: unknown) => error);
    expect(refused, `ticket ${ticket}`).toMatchObject({ code: "RL101", message: "rls_enforcement_failed" });
  }
  return stranger;
}

/** The name with which SQL refused a statement of a person or of a system function, and its facts. */
export async function raised(
  query: Promise<unknown>,
): Promise<{ name: string; sqlstate: string; detail: Row }> {
  const error = await query.then(
    (value) => expect.fail(`expected an error, got ${JSON.stringify(value)}`),
    (thrown: unknown) => thrown as { message: string; code: string; detail?: string },
  );
  let detail: Row = {};
  if (error.detail?.startsWith("{")) detail = JSON.parse(error.detail);
  return { name: error.message, sqlstate: error.code, detail };
}

/**
 * What a query answers while another transaction holds rows. It must not wait for them: after a second it is given up
 * as an error.
 */
export async function besides(
  database: TestDatabase,
  held: { text: string; values?: unknown[] },
  db: { pool: pg.Pool },
  text: string,
): Promise<Row[]> {
  const [holder, client] = [await database.superuser.connect(), await db.pool.connect()];
  try {
    await holder.query("begin");
    expect((await holder.query(`${held.text} for no key update`, held.values)).rowCount).toBeGreaterThan(0);
    await client.query("begin");
    await client.query("set local lock_timeout = '1s'");
    const { rows } = await client.query(text);
    await client.query("commit");
    return rows;
  } finally {
    await holder.query("rollback");
    holder.release();
    client.release(true); // an error has left it inside of its transaction
  }
}

/**
 * What becomes of calls that all meet at the same rows: another transaction holds them until every call waits, then
 * lets go. The pool of the calls must have a connection for each.
 */
export async function collide<T>(
  database: TestDatabase,
  held: { text: string; values?: unknown[] },
  calls: (() => Promise<T>)[],
): Promise<PromiseSettledResult<T>[]> {
  const holder = await database.superuser.connect();
  try {
    await holder.query("begin");
    expect((await holder.query(`${held.text} for no key update`, held.values)).rowCount).toBeGreaterThan(0);
    const outcomes = Promise.allSettled(calls.map((call) => call()));
    await expect.poll(() => lockWaits(database), { timeout: 10_000, interval: 10 }).toBe(calls.length);
    await holder.query("commit");
    return await outcomes;
  } finally {
    await holder.query("rollback");
    holder.release();
  }
}

/** How many sessions of the database wait for a lock. */
export async function lockWaits(database: TestDatabase): Promise<number> {
  const { rows } = await database.superuser.query(
    "select count(*)::int as n from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'",
  );
  return rows[0].n;
}
