// A session of a login that an attacker writes the text for, and everything that the server says to it.
import pg from "pg";
import { errorFields } from "./errors.ts";

/** What became of one message: the rows of its statements, or the error that ended it. */
export type Answer = { rows: unknown[]; error: pg.DatabaseError | undefined };

/** A connection of its own, that no pool hands on. */
export type Session = {
  client: pg.Client;
  /** The backend behind it. */
  pid: number;
  /** Rows and their column names, fields of errors, notices, notifications and copied data, as they came. */
  heard: string[];
  /** Sends one message; what the server refuses is an answer. Throws only for what is not the server's. */
  ask(text: string, values?: unknown[]): Promise<Answer>;
  end(): Promise<void>;
};

/** Connects. Nothing is set but what the login brings. */
export async function openSession(config: pg.ClientConfig): Promise<Session> {
  const client = new pg.Client({ connectionTimeoutMillis: 5_000, ...config });
  const heard: string[] = [];
  client.on("error", (error) => heard.push(String(error)));
  client.on("notice", (notice) => heard.push(JSON.stringify(errorFields(notice))));
  client.on("notification", (message) => heard.push(`${message.channel} ${message.payload ?? ""}`));
  await client.connect();
  client.connection.on("copyData", (data: { chunk: Buffer }) => heard.push(data.chunk.toString("utf8")));
  return {
    client,
    pid: (client as unknown as { processID: number }).processID,
    heard,
    async ask(text, values) {
      try {
        const answer = (await client.query(text, values as unknown[])) as pg.QueryResult | pg.QueryResult[];
        const rows = [answer].flat().flatMap((result) => result.rows as unknown[]);
        heard.push(...rows.map((row) => JSON.stringify(row)));
        return { rows, error: undefined };
      } catch (error) {
        if (!(error instanceof pg.DatabaseError)) throw error;
        heard.push(JSON.stringify(errorFields(error)));
        return { rows: [], error };
      }
    },
    end: () => client.end(),
  };
}

/** How a message ended, short: the SQLSTATE and the routine of the server that raised it, or silence. */
export function outcomeOf({ error, rows }: Answer): string {
  return error === undefined ? `silent, ${rows.length} rows` : `${error.code} ${error.routine}`;
}
