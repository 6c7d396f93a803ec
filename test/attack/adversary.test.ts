// An adversary who knows holdfast: seeded sessions of statements made for it, as the tenant role and as the login behind
// it. After each, nothing of another tenant was shown or changed. And it finds the holes that are made on purpose.
import { beforeAll, describe, expect, test } from "vitest";
import { randomFrom } from "../../src/sample/random.ts";
import { testDatabase } from "../support/database.ts";
import { besiege, type Siege } from "./adversary.ts";
import { type AttackScene, attackScene } from "./scene.ts";

const SEED = Number(process.env["ADVERSARY_SEED"] ?? 1);
const SESSIONS = Number(process.env["ADVERSARY_SESSIONS"] ?? 300);

const whole = testDatabase();
const holed = testDatabase();
let scene: AttackScene;
let holedScene: AttackScene;

beforeAll(async () => {
  scene = await attackScene(whole);
  holedScene = await attackScene(holed);
  // Statistics are of all tenants: with them, a plan has something to tell.
  await whole.superuser.query("analyze");
});

test(`${SESSIONS} sessions show and change nothing of another tenant`, async () => {
  const before = await scene.foreignFingerprints();
  const began = performance.now();
  const siege = await besiege(whole, scene, randomFrom(SEED), { sessions: SESSIONS, ms: 120_000 });
  console.info(
    `adversary, seed ${SEED}, ${Math.round(performance.now() - began)} ms: ${JSON.stringify(siege)}`,
  );
  expect(siege.breach).toBeUndefined();
  expect(await scene.foreignFingerprints()).toEqual(before);
  expect(siege.sessions).toBe(SESSIONS);
  // An attack in which everything is refused proves little.
  expect(siege.succeeded / siege.statements).toBeGreaterThan(0.3);
  expect(siege.sawOwnRow).toBeGreaterThan(SESSIONS / 10);
  expect(siege.twins).toBeGreaterThan(SESSIONS / 2);
}, 180_000);

describe("a hole that is made on purpose is found:", () => {
  async function attacked(hole: string, mend: string): Promise<Siege> {
    await holed.superuser.query(hole);
    try {
      return await besiege(holed, holedScene, randomFrom(SEED), { sessions: 1_500, ms: 60_000 });
    } finally {
      await holed.superuser.query(mend);
    }
  }
  const TO_ALL = "to holdfast_service, holdfast_tenant";

  test("a policy that lets everybody in", async () => {
    const siege = await attacked(
      "create policy hole on app.tenants for select to holdfast_owner using (true)",
      "drop policy hole on app.tenants",
    );
    expect(siege.breach?.what).toMatch(/row shows/);
    expect(siege.breach!.session.length).toBeLessThan(6);
  }, 90_000);

  test("a tenant that is believed without its seal", async () => {
    const { rows } = await holed.superuser.query(
      "select pg_get_functiondef('app_private.current_tenant_id'::regproc) as text",
    );
    const siege = await attacked(
      `create or replace function app_private.current_tenant_id() returns uuid language sql stable
       parallel restricted security definer set search_path = ''
       as $$ select left(nullif(pg_catalog.current_setting('app.tenant', true), ''), 36)::uuid $$`,
      rows[0].text,
    );
    expect(siege.breach?.what).toMatch(/shows|told from an id of nobody/);
    expect(siege.breach!.session.join()).toMatch(/set_config|set (local )?app.tenant/);
  }, 90_000);

  test("a function that ignores the tenant", async () => {
    const siege = await attacked(
      `create function app.peek(tenant_id uuid, ticket text, finding_id uuid) returns setof app.findings
         language sql security definer set search_path = ''
         as 'select f.* from app.findings as f where f.id = finding_id';
       grant execute on function app.peek ${TO_ALL}`,
      "drop function app.peek",
    );
    expect(siege.breach?.what).toMatch(/row shows|told from an id of nobody/);
    expect(siege.breach!.session.join()).toContain("app.peek");
  }, 90_000);

  test("a function that says whether another tenant has the id", async () => {
    const siege = await attacked(
      `create function app.hint(tenant_id uuid, ticket text, run_id uuid) returns void
         language plpgsql security definer set search_path = '' as $$ begin
         raise exception '%', case when exists (select from app.job_runs as r where r.id = run_id)
           then 'not_yours' else 'not_found' end; end $$;
       grant execute on function app.hint ${TO_ALL}`,
      "drop function app.hint",
    );
    expect(siege.breach?.what).toMatch(/told from an id of nobody/);
  }, 90_000);

  test("a function that changes whatever has the id", async () => {
    const siege = await attacked(
      `create function app.touch(tenant_id uuid, ticket text, finding_id uuid) returns void
         language sql security definer set search_path = ''
         as 'update app.findings as f set why = why where f.id = finding_id';
       grant execute on function app.touch ${TO_ALL}`,
      "drop function app.touch",
    );
    expect(siege.breach?.what).toMatch(/has changed/);
  }, 90_000);
});
