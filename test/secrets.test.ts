import { execFile } from "node:child_process";
import * as fs from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterEach, beforeEach, expect, test } from "vitest";
import { localSecrets, writePgpass } from "../src/secrets.ts";

let directory: string;
beforeEach(() => {
  directory = join(fs.mkdtempSync(join(tmpdir(), "holdfast-secrets-")), "state");
});
afterEach(() => fs.rmSync(join(directory, ".."), { recursive: true }));

const file = () => join(directory, "secrets.json");
const modeOf = (path: string) => fs.statSync(path).mode & 0o777;

test("the first start makes secrets for the owner's eyes, and later starts find the same", () => {
  const made = localSecrets(directory);
  expect(modeOf(directory)).toBe(0o700);
  expect(modeOf(file())).toBe(0o600);
  expect(made.ticketKey).toHaveLength(32);
  expect(made.jwtSecretKey).toHaveLength(32);
  const everything = [made.ticketKey, made.jwtSecretKey, ...Object.values(made.passwords)].map(String);
  expect(new Set(everything).size).toBe(6);
  expect(localSecrets(directory)).toEqual(made);
  expect(fs.readdirSync(directory)).toEqual(["secrets.json"]);
});

test("starters that race end with the same secrets, and leave no draft", async () => {
  const module = new URL("../src/secrets.ts", import.meta.url).href;
  const script = `const { localSecrets } = await import(${JSON.stringify(module)});
    while (Date.now() < Number(process.argv[1])) ;
    console.log(JSON.stringify(localSecrets(process.argv[2])));`;
  const together = String(Date.now() + 1_000);
  const start = () =>
    promisify(execFile)(process.execPath, ["--input-type=module", "-e", script, together, directory]);
  const outputs = await Promise.all([start(), start(), start(), start()]);
  expect(new Set(outputs.map((output) => output.stdout)).size).toBe(1);
  expect(JSON.parse(outputs[0]!.stdout).passwords).toEqual(localSecrets(directory).passwords);
  expect(fs.readdirSync(directory)).toEqual(["secrets.json"]);
});

test("a file that others can read is refused, and says how to close it", () => {
  localSecrets(directory);
  for (const mode of [0o640, 0o604, 0o660]) {
    fs.chmodSync(file(), mode);
    expect(() => localSecrets(directory)).toThrow(/can be read by other users\. Run: chmod 600 '/);
  }
  fs.chmodSync(file(), 0o600);
  expect(localSecrets(directory).ticketKey).toHaveLength(32);
});

test("a folder in which others can write is refused; one that others may pass through keeps its mode", () => {
  fs.mkdirSync(directory, { mode: 0o711 });
  fs.chmodSync(directory, 0o711);
  localSecrets(directory);
  expect(modeOf(directory)).toBe(0o711);
  fs.chmodSync(directory, 0o777);
  expect(() => localSecrets(directory)).toThrow(/lets other users write in it\. Run: chmod go-w/);
});

test.each([
  ["cut", (text: string) => text.slice(0, 40)],
  ["empty", () => ""],
  ["with a short key", (text: string) => text.replace(/"ticketKey": "[^"]{8}/, '"ticketKey": "')],
  ["without a password", (text: string) => text.replace("holdfast_ops", "holdfast_oops")],
])("a file that is %s is damaged: named, kept, and not quoted", (_name, damage) => {
  const { passwords } = localSecrets(directory);
  fs.writeFileSync(file(), damage(fs.readFileSync(file(), "utf8")));
  const damaged = fs.readFileSync(file(), "utf8");
  let refusal: unknown;
  try {
    localSecrets(directory);
  } catch (error) {
    refusal = error;
  }
  expect(refusal).toMatchObject({ code: "config_invalid", detail: { path: file() } });
  expect(String(refusal)).toContain(`${file()} is damaged`);
  expect((refusal as Error).cause).toBeUndefined();
  expect(String(refusal)).not.toContain(passwords.holdfast_admin);
  expect(fs.readFileSync(file(), "utf8")).toBe(damaged);
});

test("a link in place of the file is refused, whether it leads somewhere or not", () => {
  localSecrets(directory);
  fs.renameSync(file(), join(directory, "elsewhere"));
  fs.symlinkSync("elsewhere", file());
  expect(() => localSecrets(directory)).toThrow(/cannot be used \(ELOOP\)/);
  fs.unlinkSync(join(directory, "elsewhere"));
  expect(() => localSecrets(directory)).toThrow(/cannot be used \(ELOOP\)/);
});

test("a folder that cannot be made is named", () => {
  fs.writeFileSync(directory, "");
  expect(() => localSecrets(directory)).toThrow(/state\/secrets\.json cannot be used \(EEXIST\)/);
});

test("the pgpass is private, replaced whole, and escapes what its format gives a meaning", () => {
  const target = {
    host: "127.0.0.1",
    port: 8403,
    database: "hold:fast",
    user: "holdfast_ops",
    password: "a\\b:c",
  };
  writePgpass(directory, { ...target, password: "old" });
  const path = writePgpass(directory, target);
  expect(path).toBe(join(directory, "pgpass"));
  expect(fs.readFileSync(path, "utf8")).toBe("127.0.0.1:8403:hold\\:fast:holdfast_ops:a\\\\b\\:c\n");
  expect(modeOf(path)).toBe(0o600);
  expect(fs.readdirSync(directory)).toEqual(["pgpass"]);
});
