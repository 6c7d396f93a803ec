// Which logins may serve: those that row security binds, whatever way round it would lead past. And with which key.
import { randomBytes } from "node:crypto";
import { afterAll, afterEach, beforeAll, describe, expect, inject, it, vi } from "vitest";
import { createPool } from "../src/db.ts";
import { refuseUnsafeLogin, refuseWrongTicketKey } from "../src/login_check.ts";
import { withClient } from "../src/migrate.ts";
import { TEST_PASSWORD } from "./support/constants.ts";
import { testDatabase } from "./support/database.ts";

const server = inject("server");
const database = testDatabase();
const suffix = randomBytes(4).toString("hex");

/** Logins of this test alone, and what makes each unsafe. They are the cluster's, so they go at the end. */
const LOGINS = {
  bypasses: "bypassrls",
  owner: "in role holdfast_owner",
  owner_by_detour: `in role middle_${suffix}`,
  sees_all: "in role holdfast_system",
  may_bypass: `in role bypassing_${suffix}`,
  creates_roles: "createrole createdb",
  harmless: "in role holdfast_tenant",
};

function login(name: keyof typeof LOGINS): string {
  return `${name}_${suffix}`;
}

async function check(name: string, environment: "development" | "staging" | "production" = "development") {
  const address = new URL(database.url("holdfast_service"));
  address.username = name;
  const pool = createPool({ connectionString: address.href, max: 1, application_name: "test" });
  try {
    await refuseUnsafeLogin({ pool }, environment);
    return "accepted";
  } finally {
    await pool.end();
  }
}

beforeAll(async () => {
  await withClient(server.administrator, async (client) => {
    await client.query(`create role middle_${suffix} in role holdfast_owner`);
    await client.query(`create role bypassing_${suffix} bypassrls`);
    for (const [name, options] of Object.entries(LOGINS)) {
      await client.query(`create role ${name}_${suffix} login password '${TEST_PASSWORD}' ${options}`);
      await client.query(`grant connect on database ${database.name} to ${name}_${suffix}`);
    }
  });
});

afterAll(async () => {
  await withClient(server.administrator, async (client) => {
    for (const name of Object.keys(LOGINS)) {
      await client.query(`revoke connect on database ${database.name} from ${name}_${suffix}`);
      await client.query(`drop role ${name}_${suffix}`);
    }
    await client.query(`drop role middle_${suffix}`);
    await client.query(`drop role bypassing_${suffix}`);
  });
});

describe("refuseUnsafeLogin", () => {
  it("lets the logins of the parts pass", async () => {
    for (const name of ["holdfast_service", "holdfast_worker", "holdfast_ops", login("harmless")]) {
      expect(await check(name), name).toBe("accepted");
    }
  });

  it("refuses the superuser", async () => {
    await expect(refuseUnsafeLogin({ pool: database.superuser }, "development")).rejects.toMatchObject({
      code: "role_unsafe",
    });
  });

  it.each(["bypasses", "owner", "owner_by_detour", "sees_all", "may_bypass"] as const)(
    "refuses a login that row security does not bind: %s",
    async (name) => {
      await expect(check(login(name))).rejects.toMatchObject({
        code: "role_unsafe",
        detail: { login: login(name) },
        hint: expect.stringContaining("holdfast_service"),
      });
    },
  );

  it("refuses the login that migrates", async () => {
    await expect(check("holdfast_admin")).rejects.toMatchObject({ code: "role_unsafe" });
  });

  it("refuses an old server outside of development, and only there", async () => {
    const { rows } = await database.ops.query("select current_setting('server_version_num')::int as version");
    const version: number = rows[0].version;
    const floor = [150_020, 160_016, 170_012, 180_007].find(
      (each) => Math.floor(each / 10_000) === Math.floor(version / 10_000),
    );
    expect(await check("holdfast_service", "development")).toBe("accepted");
    for (const environment of ["staging", "production"] as const) {
      if (floor !== undefined && version >= floor) {
        expect(await check("holdfast_service", environment)).toBe("accepted");
      } else {
        await expect(check("holdfast_service", environment)).rejects.toMatchObject({
          code: "role_unsafe",
          hint: expect.stringMatching(/15\.20.*16\.16.*17\.12.*18\.7/),
        });
      }
    }
  });
});

describe("refuseWrongTicketKey", () => {
  afterEach(() => vi.useRealTimers());

  const refusal = {
    code: "config_invalid",
    message: expect.stringMatching(/TICKET_KEY.*TICKET_KEY_ID/),
    hint: expect.stringMatching(/clocks.*30 s/),
  };

  it("lets the key pass that the database knows, for both parts", async () => {
    await refuseWrongTicketKey(database.service);
    await refuseWrongTicketKey(database.worker);
  });

  it("refuses another key under its number, and the key under another number", async () => {
    const { ticketKey } = database.service;
    for (const wrong of [
      { ...ticketKey, secret: randomBytes(32) },
      { ...ticketKey, kid: 88 },
    ]) {
      await expect(refuseWrongTicketKey({ ...database.service, ticketKey: wrong })).rejects.toMatchObject(
        refusal,
      );
    }
  });

  it("refuses the right key on a host whose clock is a minute behind", async () => {
    vi.useFakeTimers({ toFake: ["Date"], now: Date.now() - 60_000 });
    await expect(refuseWrongTicketKey(database.service)).rejects.toMatchObject(refusal);
  });

  it("says what to run on a database that is not migrated", async () => {
    const address = new URL(database.url("holdfast_service"));
    address.pathname = "/postgres";
    const pool = createPool({ connectionString: address.href, max: 1, application_name: "test" });
    try {
      await expect(refuseWrongTicketKey({ ...database.service, pool })).rejects.toMatchObject({
        code: "config_invalid",
        hint: "Run: npm run db:migrate",
      });
    } finally {
      await pool.end();
    }
  });
});
