create or replace view ops.help as
select h.name, h.example, h.meaning
from (values
  ('ops.report',        'select * from ops.report',
   'One line per tenant: costs, findings, saving, budget, state.'),
  ('ops.findings',      'select tenant, severity, saving, cur, headline from ops.findings limit 10',
   'What was found and stands, best first.'),
  ('ops.findings_all',  'select tenant, state, headline from ops.findings_all limit 10',
   'Every finding, what has ended too.'),
  ('ops.cost_daily',
   'select day, sum(effective_cost), cur from ops.cost_daily group by day, cur order by day desc limit 10',
   'What the detectors read; the query in a finding''s evidence reads it.'),
  ('ops.budgets',       'select * from ops.budgets',       'What each tenant may spend, has spent and has left.'),
  ('ops.llm_calls',     'select * from ops.llm_calls limit 10', 'Each call to a model: held, cost, tokens.'),
  ('ops.imports',       'select * from ops.imports limit 10', 'Each cost file: flags, or why it was refused.'),
  ('ops.runs',          'select * from ops.runs limit 10', 'Each job: state, attempt, error.'),
  ('ops.run_events',    'select * from ops.run_events order by created_at desc limit 10',
   'Each change of state of each run.'),
  ('ops.tenants',       'select * from ops.tenants',       'Who is there.'),
  ('ops.audit_log',     'select * from ops.audit_log order by id desc limit 10', 'What people changed, and why.'),
  ('ops.tenant_add',
   'select * from ops.tenant_add(name => ''Acme'', limit_usd => 25, reason => ''new customer'')',
   'Make a tenant with a monthly budget.'),
  ('ops.budget_set',
   'select * from ops.budget_set(tenant => ''Acme'', limit_usd => 50, reason => ''asked for more'')',
   'Change a budget.'),
  ('ops.llm_price_set',
   'select * from ops.llm_price_set(''api.example.com'', ''model'', 0.4, 1.6, reason => ''price list of May'')',
   'Set the price of a model.'),
  ('ops.llm_write_off',
   'select w.* from ops.llm_calls as c, ops.llm_write_off(c.id, ''not billed'', true) as w where c.status = ''PRESUMED''',
   'Give back what a PRESUMED hold counts, once the bill shows that it was not charged.'),
  ('app.llm_check',     'select * from app.llm_check()',   'Broken invariants of the budget; no row is good.'),
  ('app.error_codes',   'select * from app.error_codes',   'What each error code means.'),
  ('app_private.lint',  'select * from app_private.lint',  'House rules that are broken; no row is good.')
) as h (name, example, meaning);

comment on view ops.help is 'What there is for people in psql, with an example each.';

grant select on ops.help to holdfast_ops;
