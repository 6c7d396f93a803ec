// Who calls: a signed bearer token whose claim names the tenant. Only HS256 with our own key is ever
// accepted.
import { jwtVerify, SignJWT } from "jose";
import { z } from "zod";
import type { Config } from "./config.ts";
import { AppError } from "./errors.ts";

/** A caller whose token is genuine. Whether the tenant is active, the database says. */
export type Caller = { tenantId: string; subject: string };

type TokenKey = Pick<Config<"api">, "jwtSecretKey">;

const ALGORITHM = "HS256";
const PARTY = "holdfast";
const CLOCK_TOLERANCE_SECONDS = 5;
const TOKEN_MAX_CHARACTERS = 4096;

const Claims = z.object({ sub: z.string().min(1).max(200), tenant_id: z.uuid() });

/**
 * The caller behind an `Authorization` header. Throws `unauthorized` without a reason: a forger learns
 * nothing, not even from `cause`, which is for the log. `detail` is empty always.
 */
export async function authenticate(config: TokenKey, header: string | undefined): Promise<Caller> {
  const token = /^bearer +([\w-]+\.[\w-]+\.[\w-]+)$/i.exec(header ?? "")?.[1];
  if (token === undefined || token.length > TOKEN_MAX_CHARACTERS) throw new AppError("unauthorized");
  try {
    const { payload } = await jwtVerify(token, config.jwtSecretKey, {
      algorithms: [ALGORITHM],
      issuer: PARTY,
      audience: PARTY,
      requiredClaims: ["exp", "sub"],
      clockTolerance: CLOCK_TOLERANCE_SECONDS,
    });
    const claims = Claims.parse(payload);
    return { tenantId: claims.tenant_id.toLowerCase(), subject: claims.sub };
  } catch (cause) {
    throw new AppError("unauthorized", { cause });
  }
}

/** A token for one tenant. `expiresIn` is a time span such as `30m` or `12h`. */
export async function mintToken(
  config: TokenKey,
  grant: { tenantId: string; subject: string; expiresIn: string },
): Promise<string> {
  return new SignJWT({ tenant_id: grant.tenantId })
    .setProtectedHeader({ alg: ALGORITHM, typ: "JWT" })
    .setSubject(grant.subject)
    .setIssuer(PARTY)
    .setAudience(PARTY)
    .setIssuedAt()
    .setExpirationTime(grant.expiresIn)
    .sign(config.jwtSecretKey);
}
