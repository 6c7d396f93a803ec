// The secrets that make seals and verify tickets must not show in what a session may have the server print of its plans.
import pg from "pg";
import { expect, test } from "vitest";
import { TEST_PASSWORD } from "../support/constants.ts";
import { testDatabase } from "../support/database.ts";

const database = testDatabase();

/** Bytes, as the server prints a constant of a plan: it breaks lines even inside a number. */
function asPrinted(bytes: Buffer): string {
  return [...bytes].map((byte) => (byte << 24) >> 24).join("");
}

const unbroken = (said: string) => said.replaceAll(/\s/g, "");

/** All that the server says to a new session of the login while it runs the statements, plans and all. */
async function printed(statements: (readonly [text: string, values: unknown[]])[]): Promise<string> {
  const client = new pg.Client({
    connectionString: database.url("holdfast_service"),
    password: TEST_PASSWORD,
  });
  let said = "";
  client.on("notice", (notice) => {
    said += `${notice.message} ${notice.detail ?? ""}\n`;
  });
  await client.connect();
  try {
    await client.query("set client_min_messages = debug5");
    await client.query(
      "set debug_print_plan = on; set debug_print_parse = on; set debug_print_rewritten = on",
    );
    await client.query("begin");
    for (const [text, values] of statements) await client.query(text, values);
    await client.query("rollback");
  } finally {
    await client.end();
  }
  return said;
}

async function secrets(): Promise<Buffer[]> {
  const { rows } = await database.superuser.query(
    "select s.secret, k.ipad, k.opad from app_private.seal_secret as s cross join app_private.ticket_keys as k",
  );
  return [rows[0].secret, rows[0].ipad, rows[0].opad];
}

test("no plan that a session has printed holds the secret of the seal or a key of tickets", async () => {
  const { tenantId } = await database.addTenant();
  const said = await printed([
    ["select app.ticket_check($1)", [database.ticket(tenantId)]],
    ["select app.enter($1, $2)", [tenantId, database.ticket(tenantId)]],
    ["select app.enter($1, $2)", [tenantId, database.ticket(tenantId)]],
    ["set local role holdfast_tenant", []],
    ["select app_private.current_tenant_id(), app_private.require()", []],
    ["select name from tenant.tenants", []],
  ]);
  // The bodies of the functions were planned in this session, and their plans printed.
  expect(said).toMatch(/SEQSCAN/);
  expect(said.match(/\bplan: /g)?.length).toBeGreaterThan(12);
  for (const secret of await secrets()) expect(unbroken(said).includes(asPrinted(secret))).toBe(false);
});

test("a function that handed the secret to a statement would print it", async () => {
  await database.superuser.query(`
    create function app.prints() returns void language plpgsql security definer as $$
    declare
      v_secret bytea := (select s.secret from app_private.seal_secret as s);
    begin
      perform app_private.seal(v_secret, 'x');
    end $$;
    grant execute on function app.prints to holdfast_service`);
  const [secret] = await secrets();
  const said = unbroken(await printed([["select app.prints()", []]]));
  expect(said.includes(asPrinted(secret!))).toBe(true);
});
