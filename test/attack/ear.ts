// A connection that keeps all it is told: cells, the fields of errors, notices, notifications, copied data.
import { setTimeout as sleep } from "node:timers/promises";
import pg from "pg";

/** Something that came back: by which way, and its text. */
export type Said = { by: "row" | "error" | "notice"; text: string };

/** What a statement brought. `code` is the SQLSTATE of its error, "" when it succeeded, "lost" without an answer. */
export type Answer = { code: string; rows: number; said: Said[] };

/** One connection. */
export type Ear = {
  /** Asks by the simple protocol, or by the extended one. Never throws; the connection is gone after "lost". */
  ask(text: string, options?: { extended?: boolean; values?: unknown[] }): Promise<Answer>;
  /** I: outside of a transaction, T: inside, E: inside of one that failed. */
  readonly status: string;
  /** Inside of a transaction that failed. */
  readonly failed: boolean;
  readonly isOpen: boolean;
  readonly client: pg.Client;
  /** Ends the connection without a word to the server, as a pool does that gives one up. */
  destroy(): void;
  end(): Promise<void>;
};

type Wire = pg.Connection & {
  on(event: string, heard: (message: { chunk?: Buffer; status?: string }) => void): void;
};

const raw = { getTypeParser: () => (value: unknown) => value };

/** Connects. A statement that has no answer after `deadlineMs` costs the connection. */
export async function openEar(connectionString: string, deadlineMs = 2_000): Promise<Ear> {
  const client = new pg.Client({ connectionString, types: raw as never });
  const { connection } = client as unknown as { connection: Wire };
  let heard: string[] = [];
  let status = "I";
  let isOpen = true;
  client.on("error", () => (isOpen = false));
  client.on("end", () => (isOpen = false));
  client.on("notice", (notice) => heard.push(JSON.stringify({ ...notice, message: notice.message })));
  client.on("notification", (message) => heard.push(JSON.stringify(message)));
  connection.on("copyData", ({ chunk }) => heard.push(String(chunk)));
  connection.on("readyForQuery", (message) => (status = message.status ?? "I"));
  await client.connect();

  const destroy = () => {
    isOpen = false;
    (connection as unknown as { stream: { destroy(): void } }).stream.destroy();
  };
  return {
    client,
    destroy,
    get status() {
      return status;
    },
    get failed() {
      return status === "E";
    },
    get isOpen() {
      return isOpen;
    },
    async ask(text, { extended = false, values } = {}) {
      heard = [];
      const config = { text, values, rowMode: "array", ...(extended ? { queryMode: "extended" } : {}) };
      const asked = client.query(config as pg.QueryArrayConfig).then(
        (result) => rowsOf(result),
        (error: unknown) => errorOf(error),
      );
      // An error is told before the server is ready for more, and only then is its status known.
      const ready = new Promise((resolve) => connection.once("readyForQuery", resolve));
      const whole = asked.then(async (answer) => {
        if (answer.code !== "lost") await ready;
        return answer;
      });
      const late = new AbortController();
      const deadline = sleep(deadlineMs, undefined, { signal: late.signal }).catch(() => {});
      const answer = (await Promise.race([whole, deadline])) ?? { code: "lost", rows: 0, said: [] };
      late.abort();
      if (answer.code === "lost") destroy();
      return {
        ...answer,
        said: [...answer.said, ...heard.map((each) => ({ by: "notice" as const, text: each }))],
      };
    },
    async end() {
      if (isOpen) await client.end();
    },
  };
}

/** A text of several statements has several results. */
function rowsOf(result: pg.QueryArrayResult | pg.QueryArrayResult[]): Answer {
  const rows = [result].flat().flatMap((each) => each.rows ?? []);
  const text = rows.map((row) => row.join("\u001f")).join("\n");
  return { code: "", rows: rows.length, said: rows.length === 0 ? [] : [{ by: "row", text }] };
}

function errorOf(error: unknown): Answer {
  if (!(error instanceof pg.DatabaseError)) return { code: "lost", rows: 0, said: [] };
  const text = JSON.stringify({ ...error, message: error.message });
  return { code: error.code ?? "?", rows: 0, said: [{ by: "error", text }] };
}
