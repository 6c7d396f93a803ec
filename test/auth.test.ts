import { createHmac, generateKeyPairSync, randomBytes, randomUUID } from "node:crypto";
import { SignJWT, UnsecuredJWT } from "jose";
import { expect, test } from "vitest";
import { authenticate, mintToken } from "../src/auth.ts";
import { AppError } from "../src/errors.ts";

const config = { jwtSecretKey: randomBytes(32) };
const tenantId = randomUUID();
const now = Math.floor(Date.now() / 1000);
const CLAIMS = { iss: "holdfast", aud: "holdfast", sub: "joe", tenant_id: tenantId, iat: now, exp: now + 60 };

type Claims = Record<string, unknown>;
const without = (name: keyof typeof CLAIMS): Claims => ({ ...CLAIMS, [name]: undefined });

/** A token made by hand, so that what our library would refuse to make can be tried too. */
function token(
  claims: Claims,
  header: Claims = { alg: "HS256" },
  key: string | Buffer = config.jwtSecretKey,
): string {
  const body = [header, claims]
    .map((part) => Buffer.from(JSON.stringify(part)).toString("base64url"))
    .join(".");
  return `${body}.${createHmac("sha256", key).update(body).digest("base64url")}`;
}

async function refusal(header: string | undefined): Promise<AppError> {
  const error = await authenticate(config, header).then(
    (caller) => new Error(`let in: ${JSON.stringify(caller)}`),
    (thrown: unknown) => thrown,
  );
  if (error instanceof AppError) return error;
  throw error;
}

test("a minted token opens its tenant", async () => {
  const minted = await mintToken(config, { tenantId, subject: "joe", expiresIn: "30m" });
  expect(await authenticate(config, `Bearer ${minted}`)).toEqual({ tenantId, subject: "joe" });
  expect(await authenticate(config, `bearer ${minted}`)).toEqual({ tenantId, subject: "joe" });
  const { iat, exp } = JSON.parse(Buffer.from(minted.split(".")[1]!, "base64url").toString());
  expect(exp - iat).toBe(30 * 60);
});

test("a token made by hand, claims in order, is let in: each forgery has a fault of its own", async () => {
  expect(await authenticate(config, `Bearer ${token(CLAIMS)}`)).toEqual({ tenantId, subject: "joe" });
});

test("clocks may differ by five seconds, not by more", async () => {
  const off = (claims: Claims) => authenticate(config, `Bearer ${token({ ...CLAIMS, ...claims })}`);
  const at = Math.floor(Date.now() / 1000);
  await expect(off({ exp: at - 2 })).resolves.toMatchObject({ tenantId });
  await expect(off({ nbf: at + 3 })).resolves.toMatchObject({ tenantId });
  await expect(off({ exp: at - 10 })).rejects.toMatchObject({ code: "unauthorized" });
  await expect(off({ nbf: at + 60 })).rejects.toMatchObject({ code: "unauthorized" });
});

const rsa = generateKeyPairSync("rsa", { modulusLength: 2048 });
const publicPem = rsa.publicKey.export({ type: "spki", format: "pem" }).toString();
const sign = (claims: Claims, alg: string, key: Parameters<SignJWT["sign"]>[0]) =>
  new SignJWT(claims).setProtectedHeader({ alg }).sign(key);
const [head, body, signature] = token(CLAIMS).split(".") as [string, string, string];
const otherTenant = Buffer.from(JSON.stringify({ ...CLAIMS, tenant_id: randomUUID() })).toString("base64url");

test.each<[string, string | Promise<string> | undefined]>([
  ["no header", undefined],
  ["an empty header", ""],
  ["another scheme", `Basic ${Buffer.from("joe:secret").toString("base64")}`],
  ["no token", "Bearer "],
  ["nonsense", "Bearer a.b.c"],
  ["two tokens", `Bearer ${token(CLAIMS)}, Bearer ${token(CLAIMS)}`],
  ["a token longer than any of ours", `Bearer ${token({ ...CLAIMS, pad: "x".repeat(5000) })}`],
  ["alg none", `Bearer ${new UnsecuredJWT(CLAIMS as never).encode()}`],
  ["alg none with a signature", `Bearer ${token(CLAIMS, { alg: "none" })}`],
  ["alg None", `Bearer ${token(CLAIMS, { alg: "None" })}`],
  ["no signature", `Bearer ${head}.${body}.`],
  ["a signature cut short", `Bearer ${head}.${body}.${signature.slice(0, -4)}`],
  ["another tenant under the same signature", `Bearer ${head}.${otherTenant}.${signature}`],
  ["another key", `Bearer ${token(CLAIMS, { alg: "HS256" }, randomBytes(32))}`],
  ["an empty key", `Bearer ${token(CLAIMS, { alg: "HS256" }, "")}`],
  ["a public key as the HMAC secret", `Bearer ${token(CLAIMS, { alg: "HS256" }, publicPem)}`],
  [
    "a key named in its own header",
    `Bearer ${token(CLAIMS, { alg: "HS256", jwk: { kty: "oct", k: "AAAA" } }, Buffer.alloc(3))}`,
  ],
  [
    "HS512 with the right key",
    sign(CLAIMS, "HS512", Buffer.concat([config.jwtSecretKey, config.jwtSecretKey])).then(bearer),
  ],
  ["RS256", sign(CLAIMS, "RS256", rsa.privateKey).then(bearer)],
  ["RS256 in the header over an HMAC", `Bearer ${token(CLAIMS, { alg: "RS256" })}`],
  ["a critical extension", `Bearer ${token(CLAIMS, { alg: "HS256", crit: ["x-own"], "x-own": 1 })}`],
  ["another issuer", `Bearer ${token({ ...CLAIMS, iss: "holdslow" })}`],
  ["no issuer", `Bearer ${token(without("iss"))}`],
  ["another audience", `Bearer ${token({ ...CLAIMS, aud: "someone" })}`],
  ["no audience", `Bearer ${token(without("aud"))}`],
  ["an expired token", `Bearer ${token({ ...CLAIMS, exp: now - 60 })}`],
  ["no expiry", `Bearer ${token(without("exp"))}`],
  ["an expiry that is text", `Bearer ${token({ ...CLAIMS, exp: "never" })}`],
  ["not yet valid", `Bearer ${token({ ...CLAIMS, nbf: now + 3600 })}`],
  ["no tenant", `Bearer ${token(without("tenant_id"))}`],
  ["a tenant that is no uuid", `Bearer ${token({ ...CLAIMS, tenant_id: "1 or true" })}`],
  ["two tenants", `Bearer ${token({ ...CLAIMS, tenant_id: [tenantId, tenantId] })}`],
  ["no subject", `Bearer ${token(without("sub"))}`],
  ["an empty subject", `Bearer ${token({ ...CLAIMS, sub: "" })}`],
])("%s is refused, without a reason for the forger", async (_name, header) => {
  const error = await refusal(await header);
  expect(error).toMatchObject({ code: "unauthorized", status: 401, message: "unauthorized", detail: {} });
  expect(error.hint).toBeUndefined();
});

function bearer(signed: string): string {
  return `Bearer ${signed}`;
}
