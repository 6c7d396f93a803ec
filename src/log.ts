// Logs: JSON lines on stderr (stdout is for results), readable where a person watches, and never a secret in
// them.
import pg from "pg";
import pino from "pino";
import pretty from "pino-pretty";
import type { Config } from "./config.ts";
import { AppError, ERRORS } from "./errors.ts";

/** A logger whose every line is redacted. */
export type Log = pino.Logger;

/**
 * `destination` takes the lines in place of stderr; `readable` overrides the look at whether that is a
 * terminal.
 */
export type LogOptions = {
  level: Config["logLevel"];
  part?: string;
  destination?: pino.DestinationStream;
  readable?: boolean;
};

const REDACTED = "[redacted]";
const CAUSES = 3;

/** Fields that hold a secret or a prompt, at whatever depth; compared in lower case, without `-` and `_`. */
const SECRET_FIELD = new RegExp(
  [
    "^(authorization|proxyauthorization|cookie|setcookie)$",
    "^(prompt|systemprompt|instructions|messages|content|requestbodyvalues)$",
    "(password|secret|token|ticket|apikey|secretkey|ticketkey|databaseurl|connectionstring)$",
  ].join("|"),
);

/** Secrets that show what they are, wherever in a text they stand. */
const SECRET_TEXTS: readonly (readonly [RegExp, string])[] = [
  [/\bv1\.\d+\.[0-9a-f]{8}[\w.-]*/gi, REDACTED], // a ticket, also one that is cut off
  [/\beyJ[\w-]+\.[\w-]+\.[\w-]*/g, REDACTED], // a JSON web token
  [/\b(bearer|basic)\s+[\w.~+/=-]{8,}/gi, `$1 ${REDACTED}`],
  [/\bsk-[\w-]{8,}/g, REDACTED], // a provider's key
  [/(\w:\/\/[^\s:/?#@]*):\S*@/g, `$1:${REDACTED}@`], // the password in an address
  [/(password\s*=\s*)('[^']*'|[^\s'&]+)/gi, `$1${REDACTED}`], // and in a connection string
];

/**
 * A logger of JSON lines with `level`, `time` and `part`. An error belongs in `err`; every line is redacted.
 */
export function createLog({ level, part, destination, readable }: LogOptions): Log {
  const stderr = destination ?? pino.destination({ dest: 2, sync: true });
  return pino(
    {
      level,
      base: part === undefined ? {} : { part },
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
      serializers: {
        err: (error: unknown) => describeError(error),
        error: (error: unknown) => describeError(error),
      },
      hooks: { streamWrite: redactLine },
    },
    (readable ?? process.stderr.isTTY === true) ? readably(stderr) : stderr,
  );
}

function readably(destination: pino.DestinationStream): pino.DestinationStream {
  return pretty({
    destination: destination as NodeJS.WritableStream,
    sync: true,
    colorize: process.stderr.isTTY === true && !process.env["NO_COLOR"],
    translateTime: "SYS:HH:MM:ss",
    ignore: "part",
    singleLine: true,
  });
}

/**
 * What a log may know of an error: its name, facts and causes. Of a database error the SQLSTATE and the
 * place, not its detail, which quotes rows; of any other, no field that is not named here, for a client's
 * error holds the request.
 */
export function describeError(error: unknown, causes = CAUSES): Record<string, unknown> {
  if (!(error instanceof Error)) return { type: typeof error, message: String(error) };
  const described: Record<string, unknown> = { type: error.name, message: error.message };
  if (error instanceof AppError) {
    const { code, sqlstate, status, detail, hint } = error;
    Object.assign(described, { code, sqlstate, status, detail, hint });
  } else if (error instanceof pg.DatabaseError) {
    const { code: sqlstate, severity, routine, schema, table, constraint, where } = error;
    Object.assign(described, { sqlstate, severity, routine, schema, table, constraint, where });
    // The one detail of fixed words: whether it was the ticket or the tenant.
    if (sqlstate === ERRORS.rls_enforcement_failed.sqlstate) described["detail"] = error.detail;
  } else if ("code" in error) {
    described["code"] = error.code;
  }
  described["stack"] = error.stack;
  if (error.cause !== undefined && causes > 0) described["cause"] = describeError(error.cause, causes - 1);
  return described;
}

/**
 * The line is the only door out, so it is the place to look: at fields, messages, bindings and errors alike.
 */
function redactLine(line: string): string {
  return `${JSON.stringify(JSON.parse(line, redactField))}\n`;
}

function redactField(key: string, value: unknown): unknown {
  if (value === null || typeof value === "boolean") return value; // whether there is a secret is none
  if (SECRET_FIELD.test(key.toLowerCase().replace(/[-_]/g, ""))) return REDACTED;
  if (typeof value !== "string") return value;
  return SECRET_TEXTS.reduce((text, [secret, instead]) => text.replace(secret, instead), value);
}
