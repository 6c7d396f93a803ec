create table if not exists app_private.seal_secret (
  one    boolean not null default true,
  secret bytea   not null,

  constraint seal_secret_pkey primary key (one),
  constraint seal_secret_one_row check (one)
);

comment on table app_private.seal_secret is
  'What makes a seal: 32 random bytes that never leave this database. Made once, when the database is.';
comment on column app_private.seal_secret.one is 'Always true: there is one row.';
comment on column app_private.seal_secret.secret is 'The secret; known to no client.';

insert into app_private.seal_secret (secret)
values (sha256(convert_to(
  gen_random_uuid()::text || gen_random_uuid()::text || gen_random_uuid()::text || gen_random_uuid()::text,
  'UTF8')))
on conflict on constraint seal_secret_pkey do nothing;
