// The scene of the attacks itself: an attack that looks for nothing would find nothing.
import { beforeAll, expect, test } from "vitest";
import { testDatabase } from "../support/database.ts";
import { type AttackScene, attackScene } from "./scene.ts";

const database = testDatabase();
let scene: AttackScene;

beforeAll(async () => {
  scene = await attackScene(database);
});

async function rowsOf(name: string, tenantId: string): Promise<string[]> {
  const { rows } = await database.superuser.query<{ row: string }>(
    `select to_jsonb(t)::text as row from ${name} as t where tenant_id = $1`,
    [tenantId],
  );
  return rows.map(({ row }) => row);
}

test("every row of the foreign tenant gives itself away, and none of the attacker's does", async () => {
  expect(scene.tables.length).toBeGreaterThanOrEqual(18);
  for (const name of scene.tables) {
    for (const row of await rowsOf(name, scene.foreign.tenantId)) expect(scene.leak(row), name).toBeDefined();
    for (const row of await rowsOf(name, scene.mine.tenantId)) expect(scene.leak(row), name).toBeUndefined();
  }
});

test.each([
  "XQZKanarie",
  "x || reverse: eiranakzqx",
  "\\x78717a6b616e61726965",
  Buffer.from("xqzkanarie note").toString("base64"),
  "cost 7364519028.4",
  "$7,364,519,028.40",
  "44187114170.1, which is their sum",
])("it is found however it is written: %s", (text) => {
  expect(scene.leak(text)).toBeDefined();
});

test("its ids and moments are found, with dashes and without", async () => {
  const { rows } = await database.superuser.query(
    "select id::text, first_seen_at::text as at from app.findings where tenant_id = $1",
    [scene.foreign.tenantId],
  );
  for (const text of [rows[0].id, rows[0].id.toUpperCase(), rows[0].id.replaceAll("-", ""), rows[0].at]) {
    expect(scene.leak(`(${text})`), text).toBeDefined();
  }
  expect(scene.leak("0.47364519028"), "a random number").toBeUndefined();
  expect(scene.leak("a0000000-0000-0000-0000-000000000000 2026-11-20 10:00:00.123456")).toBeUndefined();
});

test("the fingerprint stays while the attacker's own rows change, and changes with any other row", async () => {
  const before = await scene.foreignFingerprint();
  await database.superuser.query("update app.findings set why = 'x' where tenant_id = $1", [
    scene.mine.tenantId,
  ]);
  expect(await scene.foreignFingerprint()).toBe(before);

  for (const text of [
    "update app.findings set why = 'x' where tenant_id <> $1",
    "update app.tiers set rank = rank + 10 where $1::uuid is not null",
  ]) {
    const last = await scene.foreignFingerprint();
    await database.superuser.query(text, [scene.mine.tenantId]);
    expect(await scene.foreignFingerprint(), text).not.toBe(last);
  }
});
