// What a first start in development makes for itself: keys and passwords of this folder alone, for its
// owner's eyes.
import { randomBytes } from "node:crypto";
import * as fs from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { AppError } from "./errors.ts";

const KEY_BYTES = 32;
const LOGINS = ["holdfast_admin", "holdfast_service", "holdfast_worker", "holdfast_ops"] as const;

/** A login that a first start gives a password to. */
export type Login = (typeof LOGINS)[number];

const Key = z
  .base64()
  .transform((text) => Buffer.from(text, "base64"))
  .refine((key) => key.length === KEY_BYTES);
const Password = z.string().regex(/^[\w-]{43}$/);
const File = z.strictObject({
  ticketKey: Key,
  jwtSecretKey: Key,
  passwords: z.strictObject({
    holdfast_admin: Password,
    holdfast_service: Password,
    holdfast_worker: Password,
    holdfast_ops: Password,
  } satisfies Record<Login, z.ZodType>),
});

/** Two keys of 32 random bytes, and a password of 256 bits, safe in a URL, for each login. */
export type LocalSecrets = z.infer<typeof File>;

/**
 * The secrets in `<directory>/secrets.json` (mode 0600), made by whoever comes first; all who race get the
 * same. A file that is damaged, is a link, or that others can read is refused, never replaced: the data
 * beside it depends on it, and what others could read is no secret. Throws `config_invalid`, saying what to
 * do.
 */
export function localSecrets(directory: string): LocalSecrets {
  const path = join(directory, "secrets.json");
  return named(path, () => {
    makePrivateDirectory(directory);
    if (!fs.existsSync(path)) create(path, `${JSON.stringify(invented(), null, 2)}\n`);
    return parsed(path, readPrivate(path));
  });
}

/** Where a `psql` of this folder connects. */
export type PsqlTarget = { host: string; port: number; database: string; user: string; password: string };

/** Writes `<directory>/pgpass` (mode 0600) in the form that `PGPASSFILE` wants, and gives its path. */
export function writePgpass(directory: string, target: PsqlTarget): string {
  const path = join(directory, "pgpass");
  const fields = [target.host, String(target.port), target.database, target.user, target.password];
  return named(path, () => {
    makePrivateDirectory(directory);
    fs.renameSync(draft(path, `${fields.map((field) => field.replace(/[\\:]/g, "\\$&")).join(":")}\n`), path);
    return path;
  });
}

function invented(): Record<string, unknown> {
  return {
    ticketKey: randomBytes(KEY_BYTES).toString("base64"),
    jwtSecretKey: randomBytes(KEY_BYTES).toString("base64"),
    passwords: Object.fromEntries(LOGINS.map((login) => [login, randomBytes(32).toString("base64url")])),
  };
}

/** A folder that is there keeps its mode, for a server of another user may have to pass through it. */
function makePrivateDirectory(directory: string): void {
  fs.mkdirSync(directory, { recursive: true, mode: 0o700 });
  if ((fs.statSync(directory).mode & 0o022) === 0) return;
  throw refusal(directory, "lets other users write in it", `Run: chmod go-w '${directory}'`);
}

/** The draft gets its name by a link, which fails where the name exists: whole or not at all, and once. */
function create(path: string, text: string): void {
  const made = draft(path, text);
  try {
    fs.linkSync(made, path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
  } finally {
    fs.unlinkSync(made);
  }
}

function draft(path: string, text: string): string {
  const made = `${path}.${process.pid}.${randomBytes(6).toString("hex")}`;
  fs.writeFileSync(made, text, { flag: "wx", mode: 0o600, flush: true });
  return made;
}

function readPrivate(path: string): string {
  const file = fs.openSync(path, fs.constants.O_RDONLY | fs.constants.O_NOFOLLOW);
  try {
    if ((fs.fstatSync(file).mode & 0o077) === 0) return fs.readFileSync(file, "utf8");
    throw refusal(
      path,
      "can be read by other users",
      `Run: chmod 600 '${path}', if none of them is a stranger.`,
    );
  } finally {
    fs.closeSync(file);
  }
}

function parsed(path: string, text: string): LocalSecrets {
  try {
    return File.parse(JSON.parse(text));
  } catch {
    // Neither error goes along: JSON's quotes the text, and the text is secret.
    const hint = "Bring it back from a copy, or remove the whole folder to begin anew without its data.";
    throw refusal(path, "is damaged", hint);
  }
}

function named<T>(path: string, work: () => T): T {
  try {
    return work();
  } catch (error) {
    if (error instanceof AppError) throw error;
    const reason = (error as NodeJS.ErrnoException).code;
    throw refusal(
      path,
      `cannot be used (${reason})`,
      "It must be a plain file in a folder of the user who starts.",
    );
  }
}

function refusal(path: string, what: string, hint: string): AppError {
  return new AppError("config_invalid", { message: `${path} ${what}. ${hint}`, detail: { path }, hint });
}
