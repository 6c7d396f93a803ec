// Which logins may serve: those that row security binds, whatever way round it would lead past. And with which key.
import { randomBytes } from "node:crypto";
import { afterAll, afterEach, beforeAll, describe, expect, inject, it, vi } from "vitest";
import { createPool } from "../src/db.ts";
import {
  refuseLostSettings,
  refuseOtherLogin,
  refuseUnsafeLogin,
  refuseWrongTicketKey,
} from "../src/login_check.ts";
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
  serves_too: "in role holdfast_service",
  person: "in role holdfast_ops",
};

function login(name: keyof typeof LOGINS): string {
  return `${name}_${suffix}`;
}

/** A pool of one connection of any login of the clone. */
function poolOf(name: string) {
  const address = new URL(database.url("holdfast_service"));
  address.username = name;
  return createPool({ connectionString: address.href, max: 1, application_name: "test" });
}

async function check(name: string, environment: "development" | "staging" | "production" = "development") {
  const pool = poolOf(name);
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

describe("refuseOtherLogin", () => {
  async function check(name: string, wanted: string) {
    const pool = poolOf(name);
    return refuseOtherLogin({ pool }, wanted).finally(() => pool.end());
  }

  it("lets the login of the part pass", async () => {
    for (const name of ["holdfast_service", "holdfast_worker"]) await check(name, name);
  });

  it.each([
    ["holdfast_worker", "holdfast_service"],
    ["holdfast_service", "holdfast_worker"],
    ["holdfast_ops", "holdfast_service"],
    ["holdfast_ops", "holdfast_worker"],
    [login("person"), "holdfast_worker"],
    [login("serves_too"), "holdfast_service"],
    [login("harmless"), "holdfast_service"],
  ])("refuses %s where %s is wanted, and names both", async (name, wanted) => {
    await expect(check(name, wanted)).rejects.toMatchObject({
      code: "role_unsafe",
      message: expect.stringMatching(new RegExp(`${wanted}.*${name}`)),
      detail: { login: name, wanted },
      hint: expect.stringMatching(/api .*holdfast_service.*worker .*import .*holdfast_worker/),
    });
  });
});

describe("refuseLostSettings", () => {
  async function check(login: "holdfast_service" | "holdfast_worker", options = "") {
    const pool = createPool({
      connectionString: database.url(login),
      options,
      max: 1,
      application_name: "test",
    });
    return refuseLostSettings({ pool }).finally(() => pool.end());
  }

  it("lets the logins pass as sql/roles.sql makes them", async () => {
    await check("holdfast_service");
    await check("holdfast_worker");
  });

  it.each(["row_security=on", "statement_timeout=0", "idle_in_transaction_session_timeout=0"])(
    "refuses a login with %s, and says what to do",
    async (setting) => {
      await expect(check("holdfast_service", `-c ${setting}`)).rejects.toMatchObject({
        code: "role_unsafe",
        detail: { login: "holdfast_service", settings: [setting.split("=")[0]] },
        hint: expect.stringContaining("sql/roles.sql"),
      });
    },
  );
});

describe("refuseWrongTicketKey", () => {
  afterEach(() => vi.useRealTimers());

  const refusal = {
    code: "config_invalid",
    message: expect.stringMatching(/TICKET_KEY.*TICKET_KEY_ID/),
    hint: expect.stringMatching(/clocks.*10 s/),
  };
  const absent = {
    code: "config_invalid",
    message: expect.stringMatching(/number 88 \(TICKET_KEY_ID\).*unknown or retired/),
    hint: expect.stringMatching(/TICKET_KEY_ID.*ops\.ticket_keys/),
  };

  /** The same key under a number of its own. */
  async function keyNumber(kid: number, binding: "backend" | "none", notAfter: string | null = null) {
    await database.superuser.query(
      `insert into app_private.ticket_keys (kid, ipad, opad, binding, not_after)
       select $1, k.ipad, k.opad, $2, now() + $3::interval from app_private.ticket_keys as k where k.kid = 1`,
      [kid, binding, notAfter],
    );
    return { ...database.service, ticketKey: { ...database.service.ticketKey, kid } };
  }

  /** A pooler's number in place of the backend's. */
  function greeted(processID: number) {
    const connectionString = database.url("holdfast_service");
    const pool = createPool({ connectionString, max: 1, application_name: "test" });
    pool.on("connect", (client) => Object.assign(client, { processID }));
    return pool;
  }

  it("lets the key pass that the database knows, for both parts", async () => {
    for (const { pool } of [database.service, database.worker]) {
      const { ticketKey } = database.service;
      expect(await refuseWrongTicketKey({ pool, ticketKey })).toBe("backend");
    }
    expect(await refuseWrongTicketKey(await keyNumber(41, "backend"))).toBe("backend");
  });

  it("names the backend where it is known, whatever the key says, and none behind a pooler alone", async () => {
    const { ticketKey } = await keyNumber(42, "none", "1 hour");
    expect(await refuseWrongTicketKey({ ...database.service, ticketKey })).toBe("backend");
    const pool = greeted(1);
    expect(await refuseWrongTicketKey({ pool, ticketKey })).toBe("none");
    const other = { ...ticketKey, secret: randomBytes(32) };
    await expect(refuseWrongTicketKey({ pool, ticketKey: other })).rejects.toMatchObject(refusal);
    await pool.end();
  });

  it("refuses another key under its number", async () => {
    const ticketKey = { ...database.service.ticketKey, secret: randomBytes(32) };
    await expect(refuseWrongTicketKey({ ...database.service, ticketKey })).rejects.toMatchObject(refusal);
  });

  it("refuses a number that the database does not know, and one that is retired", async () => {
    const ticketKey = { ...database.service.ticketKey, kid: 88 };
    await expect(refuseWrongTicketKey({ ...database.service, ticketKey })).rejects.toMatchObject(absent);
    const retired = await keyNumber(88, "backend", "-1 second");
    await expect(refuseWrongTicketKey(retired)).rejects.toMatchObject(absent);
  });

  it("refuses a pooler before a key whose tickets name their backend, and says what to run", async () => {
    const { ticketKey } = await keyNumber(43, "backend");
    for (const processID of [1, -5, 2_000_000_000]) {
      const pool = greeted(processID);
      await expect(refuseWrongTicketKey({ pool, ticketKey })).rejects.toMatchObject({
        code: "config_invalid",
        message: expect.stringMatching(/pooler.*key 43/),
        hint: expect.stringMatching(
          /^Connect to PostgreSQL itself .*worker.*db:migrate.*select \* from ops\.ticket_key_set\(43, binding => 'none', reason => '…'\);$/,
        ),
      });
      await pool.end();
    }
    // What it says to run, run by those to whom it is said.
    await database.ops.query("select * from ops.ticket_key_set(43, binding => 'none', reason => 'a pooler')");
    const pool = greeted(1);
    expect(await refuseWrongTicketKey({ pool, ticketKey })).toBe("none");
    await pool.end();
  });

  it("refuses the right key on a host whose clock is a minute behind", async () => {
    vi.useFakeTimers({ toFake: ["Date"], now: Date.now() - 60_000 });
    await expect(refuseWrongTicketKey(database.service)).rejects.toMatchObject(refusal);
  });

  it("lets the right key pass on a host whose clock is 8 s behind", async () => {
    vi.useFakeTimers({ toFake: ["Date"], now: Date.now() - 8_000 });
    await refuseWrongTicketKey(database.service);
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
