// A short storm on the budgets: `npm run storm` finds nothing, and would find what is wrong.
import { spawn } from "node:child_process";
import { text } from "node:stream/consumers";
import { expect, test } from "vitest";
import { errorsOf, type HoldRow, toldOf } from "../storm/verdict.ts";

async function storm(...options: string[]) {
  const child = spawn("npm", ["run", "--silent", "storm", "--", ...options]);
  const ended = new Promise<number | null>((resolve) => child.once("close", resolve));
  const [out, errors, code] = await Promise.all([text(child.stdout), text(child.stderr), ended]);
  return { out, errors, code };
}

test("6 s of storm: a process and the server are killed, and the books know all that was told", {
  timeout: 180_000,
}, async () => {
  const { out, errors, code } = await storm("--seconds", "6", "--seed", "7");
  expect(code, `${out}\n${errors}`).toBe(0);
  const counts = Object.fromEntries(
    out.split("\n").flatMap((line) => {
      const found = /^(.*?) {2,}(.*)$/.exec(line);
      return found === null ? [] : [[found[1]!, found[2]!]];
    }),
  );
  for (const name of [
    "reservations",
    "replays of a key",
    "refused: in_flight",
    "refused: too_large",
    "refused: zero",
    "refused: no_budget",
    "refused: idempotency_conflict",
    "refused: reservation_closed",
    "settles",
    "settles of a part",
    "released",
    "presumed",
    "extended",
    "abandoned",
    "lost connections",
    "expired or resolved by the sweepers",
    "limits raised",
  ])
    expect(Number(counts[name]), name).toBeGreaterThan(0);
  expect(Object.values(counts).filter((value) => value === "none")).toHaveLength(14);
});

test("an unknown option is refused, and --help says what there is", async () => {
  expect(await storm("--minutes", "1")).toMatchObject({ code: 2, out: "" });
  expect(await storm("--seconds", "0")).toMatchObject({ code: 2, out: "" });
  expect(await storm("--help")).toMatchObject({
    code: 0,
    errors: "",
    out: expect.stringContaining("--seed"),
  });
});

const row = (facts: Partial<HoldRow> = {}): HoldRow => ({
  id: "h1",
  tenant_id: "t1",
  status: "APPLIED",
  held: "10",
  settled: "7",
  key: "k1",
  ...facts,
});

test.each<[string, string[], HoldRow[], number[]]>([
  ["all is right", ["held k1 t1 h1 10 new", "settled k1 h1 7 APPLIED"], [row()], [0, 0, 0, 0]],
  ["a hold is lost", ["held k1 t1 h1 10 new"], [], [1, 0, 0, 0]],
  ["a hold has another amount", ["held k1 t1 h1 11 new"], [row()], [1, 0, 0, 0]],
  ["a hold is another tenant's", ["held k1 t2 h1 10 new"], [row()], [1, 0, 0, 0]],
  [
    "a key was answered with two holds",
    ["held k1 t1 h1 10 new", "held k1 t1 h2 10 again"],
    [row(), row({ id: "h2" })],
    [0, 1, 0, 0],
  ],
  ["a settle is lost", ["settled k1 h1 7 APPLIED"], [row({ status: "RESERVED" })], [0, 0, 1, 0]],
  ["a settle has another cost", ["settled k1 h1 8 APPLIED"], [row()], [0, 0, 1, 0]],
  ["a part is lost", ["part k1 h1 8 RESERVED"], [row({ status: "RESERVED" })], [0, 0, 1, 0]],
  ["the end of a stream was not told", ["part k1 h1 8 RESERVED"], [row()], [0, 0, 0, 0]],
  ["an adjustment was not told", ["settled k1 h1 5 APPLIED", "adjusts k1 h1"], [row()], [0, 0, 0, 0]],
  ["an adjustment took back", ["settled k1 h1 8 APPLIED", "adjusts k1 h1"], [row()], [0, 0, 1, 0]],
  ["a release is lost", ["released k1 h1"], [row({ status: "PRESUMED" })], [0, 0, 0, 1]],
])("what was told is compared: %s", (_, told, rows, found) => {
  const lines = told.map((line) => line.split(" "));
  expect(toldOf(lines, rows).map((check) => check.found)).toEqual(found);
});

test("errors are found, and lost connections but for those of the crash", () => {
  const lines = [
    "failed settle 23502 null",
    "away reserve 1500 x",
    "away reserve 999 x",
    "away reserve 2001 x",
  ];
  const checks = errorsOf(
    lines.map((line) => line.split(" ")),
    [1_000, 2_000],
  );
  expect(checks.map((check) => check.found)).toEqual([1, 2]);
});
