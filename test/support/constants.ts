// What all tests of one run share.
import { createHash } from "node:crypto";
import type pg from "pg";

/** The password of every login of the test server. */
export const TEST_PASSWORD = "only-for-tests";

/** The key that tests mint tickets with; the template knows it. */
export const TEST_TICKET_KEY = { kid: 1, secret: createHash("sha256").update("only for tests").digest() };

/** The server of this run, as `server.ts` provides it. */
export type TestServer = {
  administrator: pg.ClientConfig;
  /** TCP, for the logins. */
  host: string;
  port: number;
  template: string;
  /** Where each test file leaves the names of the functions that it called. */
  callsDirectory: string;
};

/** The administrator's connection, in another database. */
export function inDatabase(administrator: pg.ClientConfig, database: string): pg.ClientConfig {
  if (administrator.connectionString === undefined) return { ...administrator, database };
  const url = new URL(administrator.connectionString);
  url.pathname = `/${database}`;
  return { connectionString: url.href };
}
