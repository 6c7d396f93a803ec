// How tests of the contract speak SQL: one statement for one tenant, what it refuses, and a stranger who tries it.
import { randomUUID } from "node:crypto";
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
