BEGIN TRANSACTION;
CREATE TABLE access_key (
	access_key_id TEXT NOT NULL, 
	user_name TEXT, 
	status TEXT NOT NULL, 
	created_at INTEGER NOT NULL, 
	key_version INTEGER NOT NULL, 
	iv BLOB NOT NULL, 
	sealed BLOB NOT NULL, 
	CONSTRAINT pk_access_key PRIMARY KEY (access_key_id), 
	CONSTRAINT fk_access_key_user_name FOREIGN KEY(user_name) REFERENCES user (name), 
	CONSTRAINT ck_access_key_status CHECK (status IN ('Active', 'Inactive'))
);
INSERT INTO "access_key" VALUES('AKIAH77RQUGIVOBO6GTI','alice','Active',1795686435478172,1,X'27520E5B73D41344AB1860B8',X'B4545C5EB59CF85819A4FDA3F3688E685238C138CA8A08537E371A13781705C76F17C0125FB7BE13915A250312F7B108B7CF871A1C58FB1D');
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('meta_0005');
CREATE TABLE alias (
	region TEXT NOT NULL, 
	name TEXT NOT NULL, 
	key_id TEXT NOT NULL, 
	creation_date INTEGER NOT NULL, 
	last_updated_date INTEGER NOT NULL, 
	CONSTRAINT pk_alias PRIMARY KEY (region, name), 
	CONSTRAINT fk_alias_key_id FOREIGN KEY(key_id, region) REFERENCES regional_key (key_id, region)
);
INSERT INTO "alias" VALUES('eu-central-1','alias/frozen','3b3e76db-aec3-44aa-9915-db8f808e70dd',1795686409280961,1795686409280961);
CREATE TABLE change_log (
	epoch INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	region TEXT NOT NULL, 
	subject TEXT NOT NULL
);
INSERT INTO "change_log" VALUES(1,'eu-central-1','3b3e76db-aec3-44aa-9915-db8f808e70dd');
INSERT INTO "change_log" VALUES(2,'eu-central-1','3b3e76db-aec3-44aa-9915-db8f808e70dd');
INSERT INTO "change_log" VALUES(3,'eu-central-1','alias/frozen');
INSERT INTO "change_log" VALUES(4,'eu-central-1','3b3e76db-aec3-44aa-9915-db8f808e70dd');
INSERT INTO "change_log" VALUES(5,'eu-central-1','3b3e76db-aec3-44aa-9915-db8f808e70dd');
INSERT INTO "change_log" VALUES(6,'eu-central-1','3b3e76db-aec3-44aa-9915-db8f808e70dd');
INSERT INTO "change_log" VALUES(7,'eu-central-1','fecb685a-ff82-45f2-b36e-8c5e756ce0b1');
INSERT INTO "change_log" VALUES(8,'eu-central-1','fecb685a-ff82-45f2-b36e-8c5e756ce0b1');
INSERT INTO "change_log" VALUES(9,'eu-central-1','fecb685a-ff82-45f2-b36e-8c5e756ce0b1');
INSERT INTO "change_log" VALUES(10,'eu-central-1','fecb685a-ff82-45f2-b36e-8c5e756ce0b1');
INSERT INTO "change_log" VALUES(11,'eu-central-1','fecb685a-ff82-45f2-b36e-8c5e756ce0b1');
INSERT INTO "change_log" VALUES(12,'','AKIAH77RQUGIVOBO6GTI');
INSERT INTO "change_log" VALUES(13,'eu-central-1','mrk-6f9ff15d52a9494bb04d154d9cd4ae57');
INSERT INTO "change_log" VALUES(14,'eu-central-1','mrk-6f9ff15d52a9494bb04d154d9cd4ae57');
INSERT INTO "change_log" VALUES(15,'eu-central-1','7fe45f75-a801-43b4-a3e7-9d39e3f0199b');
INSERT INTO "change_log" VALUES(16,'eu-central-1','7fe45f75-a801-43b4-a3e7-9d39e3f0199b');
INSERT INTO "change_log" VALUES(17,'eu-central-1','7fe45f75-a801-43b4-a3e7-9d39e3f0199b');
CREATE TABLE group_member (
	group_name TEXT NOT NULL, 
	user_name TEXT NOT NULL, 
	CONSTRAINT pk_group_member PRIMARY KEY (group_name, user_name), 
	CONSTRAINT fk_group_member_group_name FOREIGN KEY(group_name) REFERENCES user_group (name), 
	CONSTRAINT fk_group_member_user_name FOREIGN KEY(user_name) REFERENCES user (name)
);
CREATE TABLE group_policy (
	group_name TEXT NOT NULL, 
	policy_name TEXT NOT NULL, 
	document TEXT NOT NULL, 
	CONSTRAINT pk_group_policy PRIMARY KEY (group_name, policy_name), 
	CONSTRAINT fk_group_policy_group_name FOREIGN KEY(group_name) REFERENCES user_group (name)
);
CREATE TABLE installation (
	only INTEGER NOT NULL, 
	id TEXT NOT NULL, 
	account TEXT NOT NULL, 
	created_at INTEGER NOT NULL, 
	restored_at INTEGER, clock_trusted_at INTEGER, clock_trusted_over INTEGER, 
	CONSTRAINT pk_installation PRIMARY KEY (only), 
	CONSTRAINT ck_installation_only CHECK (only = 1)
);
INSERT INTO "installation" VALUES(1,'49a5b3da182a4f1bb23496b4a08f76d3','111122223333',1795686403660585,NULL,NULL,NULL);
CREATE TABLE installation_key (
	purpose TEXT NOT NULL, 
	version INTEGER NOT NULL, 
	token_id TEXT NOT NULL, 
	cka_id BLOB NOT NULL, 
	created_at INTEGER NOT NULL, 
	CONSTRAINT pk_installation_key PRIMARY KEY (purpose, version, token_id), 
	CONSTRAINT fk_installation_key_token_id FOREIGN KEY(token_id) REFERENCES token (id), 
	CONSTRAINT ck_installation_key_cka_id CHECK (length(cka_id) = 16)
);
INSERT INTO "installation_key" VALUES('mac',1,'ff49e91a-fecc-4dde-83f2-c58868afb8d6',X'E322E50C7D334B90ADBAA9C0AC027877',1795686403663092);
INSERT INTO "installation_key" VALUES('secrets',1,'ff49e91a-fecc-4dde-83f2-c58868afb8d6',X'7B3ABE2E24364D5F88A0DC28ABBAF07E',1795686435329516);
CREATE TABLE "key" (
	key_id TEXT NOT NULL, 
	spec TEXT NOT NULL, 
	usage TEXT NOT NULL, 
	origin TEXT NOT NULL, 
	manager TEXT NOT NULL, 
	multi_region BOOLEAN NOT NULL, 
	creation_date INTEGER NOT NULL, primary_region TEXT, 
	CONSTRAINT pk_key PRIMARY KEY (key_id), 
	CONSTRAINT ck_key_spec CHECK (spec IN ('RSA_2048', 'RSA_3072', 'RSA_4096', 'ECC_NIST_P256', 'ECC_NIST_P384', 'ECC_NIST_P521', 'ECC_SECG_P256K1', 'SYMMETRIC_DEFAULT', 'HMAC_224', 'HMAC_256', 'HMAC_384', 'HMAC_512', 'ML_DSA_44', 'ML_DSA_65', 'ML_DSA_87', 'ECC_NIST_EDWARDS25519', 'ML_KEM_512', 'ML_KEM_768', 'ML_KEM_1024')), 
	CONSTRAINT ck_key_usage CHECK (usage IN ('SIGN_VERIFY', 'ENCRYPT_DECRYPT', 'GENERATE_VERIFY_MAC', 'KEY_AGREEMENT', 'ENCAPSULATE_DECAPSULATE')), 
	CONSTRAINT ck_key_origin CHECK (origin IN ('AWS_KMS', 'EXTERNAL', 'AWS_CLOUDHSM', 'EXTERNAL_KEY_STORE')), 
	CONSTRAINT ck_key_manager CHECK (manager IN ('AWS', 'CUSTOMER'))
);
INSERT INTO "key" VALUES('3b3e76db-aec3-44aa-9915-db8f808e70dd','SYMMETRIC_DEFAULT','ENCRYPT_DECRYPT','AWS_KMS','CUSTOMER',0,1795686406505046,NULL);
INSERT INTO "key" VALUES('fecb685a-ff82-45f2-b36e-8c5e756ce0b1','SYMMETRIC_DEFAULT','ENCRYPT_DECRYPT','EXTERNAL','CUSTOMER',0,1795686419425806,NULL);
INSERT INTO "key" VALUES('mrk-6f9ff15d52a9494bb04d154d9cd4ae57','SYMMETRIC_DEFAULT','ENCRYPT_DECRYPT','AWS_KMS','CUSTOMER',1,1795686437225873,'eu-central-1');
INSERT INTO "key" VALUES('7fe45f75-a801-43b4-a3e7-9d39e3f0199b','SYMMETRIC_DEFAULT','ENCRYPT_DECRYPT','AWS_KMS','CUSTOMER',0,1795686440850416,NULL);
CREATE TABLE key_grant (
	grant_id TEXT NOT NULL, 
	key_id TEXT NOT NULL, 
	region TEXT NOT NULL, 
	name TEXT NOT NULL, 
	grantee TEXT NOT NULL, 
	retiring TEXT, 
	operations TEXT NOT NULL, 
	context_equals TEXT, 
	context_subset TEXT, 
	creation_date INTEGER NOT NULL, 
	CONSTRAINT pk_key_grant PRIMARY KEY (grant_id), 
	CONSTRAINT fk_key_grant_key_id FOREIGN KEY(key_id, region) REFERENCES regional_key (key_id, region)
);
CREATE TABLE material (
	id INTEGER NOT NULL, 
	key_id TEXT NOT NULL, 
	material_id TEXT NOT NULL, 
	sequence INTEGER NOT NULL, 
	state TEXT NOT NULL, 
	created_at INTEGER NOT NULL, 
	rotation_date INTEGER, 
	rotation_type TEXT, description TEXT, host_unwrapped BOOLEAN DEFAULT '0' NOT NULL, 
	CONSTRAINT pk_material PRIMARY KEY (id), 
	CONSTRAINT fk_material_key_id FOREIGN KEY(key_id) REFERENCES "key" (key_id), 
	CONSTRAINT uq_material_material_id UNIQUE (material_id), 
	CONSTRAINT uq_material_key_id UNIQUE (key_id, sequence), 
	CONSTRAINT ck_material_sequence CHECK (sequence >= 1), 
	CONSTRAINT ck_material_state CHECK (state IN ('NON_CURRENT', 'CURRENT', 'PENDING_ROTATION', 'PENDING_MULTI_REGION_IMPORT_AND_ROTATION')), 
	CONSTRAINT ck_material_rotation_type CHECK (rotation_type IN ('AUTOMATIC', 'ON_DEMAND'))
);
INSERT INTO "material" VALUES(1,'3b3e76db-aec3-44aa-9915-db8f808e70dd','cc9d77b990e4a1d6036babce8423b7e714fe93a80523e9c579e63b54f667783a',1,'NON_CURRENT',1795686406505087,NULL,NULL,NULL,0);
INSERT INTO "material" VALUES(2,'3b3e76db-aec3-44aa-9915-db8f808e70dd','7941743aa0e64806a71a31c92aeab786d59794625b848220f013a6d6a361d9fb',2,'CURRENT',1795686414678099,1795686414712711,'ON_DEMAND',NULL,0);
INSERT INTO "material" VALUES(3,'fecb685a-ff82-45f2-b36e-8c5e756ce0b1','ddccfbf2a6475c448daaad2f299e4068d7790b7ae21556c3a67b730f50774fef',1,'CURRENT',1795686429225570,NULL,NULL,NULL,0);
INSERT INTO "material" VALUES(4,'mrk-6f9ff15d52a9494bb04d154d9cd4ae57','c0ae63154bdf9b7f1fec41d6808bb6779fd5b5ee7313ad95c9d0df9c62ee9789',1,'CURRENT',1795686437225907,NULL,NULL,NULL,0);
INSERT INTO "material" VALUES(5,'7fe45f75-a801-43b4-a3e7-9d39e3f0199b','805a0147f348debba1a9b9ddacba45473926e902dd9df8217bab6a73a5ccb352',1,'CURRENT',1795686440850448,NULL,NULL,NULL,0);
CREATE TABLE material_presence (
	key_id TEXT NOT NULL, 
	region TEXT NOT NULL, 
	material INTEGER NOT NULL, 
	present BOOLEAN NOT NULL, 
	expiration_model TEXT, 
	valid_to INTEGER, 
	CONSTRAINT pk_material_presence PRIMARY KEY (key_id, region, material), 
	CONSTRAINT fk_material_presence_key_id FOREIGN KEY(key_id, region) REFERENCES regional_key (key_id, region), 
	CONSTRAINT fk_material_presence_material FOREIGN KEY(material) REFERENCES material (id), 
	CONSTRAINT ck_material_presence_expiration_model CHECK (expiration_model IN ('KEY_MATERIAL_EXPIRES', 'KEY_MATERIAL_DOES_NOT_EXPIRE'))
);
INSERT INTO "material_presence" VALUES('3b3e76db-aec3-44aa-9915-db8f808e70dd','eu-central-1',1,1,NULL,NULL);
INSERT INTO "material_presence" VALUES('3b3e76db-aec3-44aa-9915-db8f808e70dd','eu-central-1',2,1,NULL,NULL);
INSERT INTO "material_presence" VALUES('fecb685a-ff82-45f2-b36e-8c5e756ce0b1','eu-central-1',3,1,'KEY_MATERIAL_DOES_NOT_EXPIRE',NULL);
INSERT INTO "material_presence" VALUES('mrk-6f9ff15d52a9494bb04d154d9cd4ae57','eu-central-1',4,1,NULL,NULL);
INSERT INTO "material_presence" VALUES('7fe45f75-a801-43b4-a3e7-9d39e3f0199b','eu-central-1',5,1,NULL,NULL);
CREATE TABLE orphan (
	token_id TEXT NOT NULL, 
	cka_id BLOB NOT NULL, 
	first_seen INTEGER NOT NULL, 
	CONSTRAINT pk_orphan PRIMARY KEY (token_id, cka_id), 
	CONSTRAINT fk_orphan_token_id FOREIGN KEY(token_id) REFERENCES token (id)
);
CREATE TABLE regional_key (
	key_id TEXT NOT NULL, 
	region TEXT NOT NULL, 
	lifecycle TEXT NOT NULL, 
	state TEXT NOT NULL, 
	description TEXT NOT NULL, 
	policy TEXT NOT NULL, 
	creation_date INTEGER NOT NULL, 
	deletion_date INTEGER, 
	pending_window_days INTEGER, 
	version INTEGER NOT NULL, 
	CONSTRAINT pk_regional_key PRIMARY KEY (key_id, region), 
	CONSTRAINT fk_regional_key_key_id FOREIGN KEY(key_id) REFERENCES "key" (key_id), 
	CONSTRAINT ck_regional_key_lifecycle CHECK (lifecycle IN ('INTENDED', 'LIVE', 'DELETED')), 
	CONSTRAINT ck_regional_key_state CHECK (state IN ('Creating', 'Enabled', 'Disabled', 'PendingDeletion', 'PendingImport', 'PendingReplicaDeletion', 'Unavailable', 'Updating'))
);
INSERT INTO "regional_key" VALUES('3b3e76db-aec3-44aa-9915-db8f808e70dd','eu-central-1','LIVE','Enabled','frozen','{"Version":"2012-10-17","Id":"key-default-1","Statement":[{"Sid":"Enable IAM User Permissions","Effect":"Allow","Principal":{"AWS":"arn:aws:iam::111122223333:root"},"Action":"kms:*","Resource":"*"}]}',1795686406505046,NULL,NULL,6);
INSERT INTO "regional_key" VALUES('fecb685a-ff82-45f2-b36e-8c5e756ce0b1','eu-central-1','LIVE','Enabled','','{"Version":"2012-10-17","Id":"key-default-1","Statement":[{"Sid":"Enable IAM User Permissions","Effect":"Allow","Principal":{"AWS":"arn:aws:iam::111122223333:root"},"Action":"kms:*","Resource":"*"}]}',1795686419425806,NULL,NULL,11);
INSERT INTO "regional_key" VALUES('mrk-6f9ff15d52a9494bb04d154d9cd4ae57','eu-central-1','LIVE','Enabled','','{"Version":"2012-10-17","Id":"key-default-1","Statement":[{"Sid":"Enable IAM User Permissions","Effect":"Allow","Principal":{"AWS":"arn:aws:iam::111122223333:root"},"Action":"kms:*","Resource":"*"}]}',1795686437225873,NULL,NULL,14);
INSERT INTO "regional_key" VALUES('7fe45f75-a801-43b4-a3e7-9d39e3f0199b','eu-central-1','LIVE','Disabled','','{"Version":"2012-10-17","Id":"key-default-1","Statement":[{"Sid":"Enable IAM User Permissions","Effect":"Allow","Principal":{"AWS":"arn:aws:iam::111122223333:root"},"Action":"kms:*","Resource":"*"}]}',1795686440850416,NULL,NULL,17);
CREATE TABLE rotation (
	key_id TEXT NOT NULL, 
	anchor INTEGER NOT NULL, 
	period_days INTEGER, 
	CONSTRAINT pk_rotation PRIMARY KEY (key_id), 
	CONSTRAINT fk_rotation_key_id FOREIGN KEY(key_id) REFERENCES "key" (key_id), 
	CONSTRAINT ck_rotation_period_days CHECK (period_days > 0)
);
CREATE TABLE tag (
	key_id TEXT NOT NULL, 
	region TEXT NOT NULL, 
	tag_key TEXT NOT NULL, 
	tag_value TEXT NOT NULL, 
	CONSTRAINT pk_tag PRIMARY KEY (key_id, region, tag_key), 
	CONSTRAINT fk_tag_key_id FOREIGN KEY(key_id, region) REFERENCES regional_key (key_id, region)
);
INSERT INTO "tag" VALUES('3b3e76db-aec3-44aa-9915-db8f808e70dd','eu-central-1','made','then');
CREATE TABLE token (
	id TEXT NOT NULL, 
	label TEXT NOT NULL, 
	serial TEXT NOT NULL, 
	manufacturer TEXT NOT NULL, 
	model TEXT NOT NULL, 
	created_at INTEGER NOT NULL, 
	challenge BLOB, 
	response BLOB, 
	CONSTRAINT pk_token PRIMARY KEY (id), 
	CONSTRAINT ck_token_bound CHECK ((challenge IS NULL) = (response IS NULL))
);
INSERT INTO "token" VALUES('ff49e91a-fecc-4dde-83f2-c58868afb8d6','hsmkms','7656f790f43a43d2','SoftHSM project','SoftHSM v2',1795686403661812,X'4FB72C583B0590081C66FB2D91991231D54A10E768C5A3B15C5B9BB27AC7EC38',X'ED71E12D3FB23A13AD29313F1ABA3D11149E2E05394F4DFD824F70024690EAFE');
CREATE TABLE token_object (
	token_id TEXT NOT NULL, 
	cka_id BLOB NOT NULL, 
	material INTEGER, 
	purpose TEXT NOT NULL, 
	status TEXT NOT NULL, 
	label TEXT NOT NULL, 
	created_at INTEGER NOT NULL, 
	CONSTRAINT pk_token_object PRIMARY KEY (token_id, cka_id), 
	CONSTRAINT fk_token_object_token_id FOREIGN KEY(token_id) REFERENCES token (id), 
	CONSTRAINT fk_token_object_material FOREIGN KEY(material) REFERENCES material (id), 
	CONSTRAINT ck_token_object_cka_id CHECK (length(cka_id) = 16), 
	CONSTRAINT ck_token_object_purpose CHECK (purpose IN ('BACKING_KEY', 'WRAPPING_KEY')), 
	CONSTRAINT ck_token_object_status CHECK (status IN ('INTENDED', 'PRESENT', 'DESTROYING', 'DESTROYED'))
);
INSERT INTO "token_object" VALUES('ff49e91a-fecc-4dde-83f2-c58868afb8d6',X'FFB5764BBFD049B0A64490F7B74BD6A3',1,'BACKING_KEY','PRESENT','hsmkms/49a5b3da/eu-central-1/3b3e76db-aec3-44aa-9915-db8f808e70dd/1',1795686406505087);
INSERT INTO "token_object" VALUES('ff49e91a-fecc-4dde-83f2-c58868afb8d6',X'FA34991F18EF45A6B7300ED498AB17F4',2,'BACKING_KEY','PRESENT','hsmkms/49a5b3da/eu-central-1/3b3e76db-aec3-44aa-9915-db8f808e70dd/2',1795686414678099);
INSERT INTO "token_object" VALUES('ff49e91a-fecc-4dde-83f2-c58868afb8d6',X'79C419B116EF4F4090C0F52E2820D0BB',3,'BACKING_KEY','PRESENT','hsmkms/49a5b3da/eu-central-1/fecb685a-ff82-45f2-b36e-8c5e756ce0b1/1',1795686429225570);
INSERT INTO "token_object" VALUES('ff49e91a-fecc-4dde-83f2-c58868afb8d6',X'BC14C8666CAB47F78DFFE7E15868C825',4,'BACKING_KEY','PRESENT','hsmkms/49a5b3da/eu-central-1/mrk-6f9ff15d52a9494bb04d154d9cd4ae57/1',1795686437225907);
INSERT INTO "token_object" VALUES('ff49e91a-fecc-4dde-83f2-c58868afb8d6',X'96FD9ED7FF48401FAFBFAA515CF5118B',5,'BACKING_KEY','PRESENT','hsmkms/49a5b3da/eu-central-1/7fe45f75-a801-43b4-a3e7-9d39e3f0199b/1',1795686440850448);
CREATE TABLE user (
	name TEXT NOT NULL, 
	created_at INTEGER NOT NULL, 
	CONSTRAINT pk_user PRIMARY KEY (name)
);
INSERT INTO "user" VALUES('alice',1795686433453420);
CREATE TABLE user_group (
	name TEXT NOT NULL, 
	created_at INTEGER NOT NULL, 
	CONSTRAINT pk_user_group PRIMARY KEY (name)
);
CREATE TABLE user_policy (
	user_name TEXT NOT NULL, 
	policy_name TEXT NOT NULL, 
	document TEXT NOT NULL, 
	CONSTRAINT pk_user_policy PRIMARY KEY (user_name, policy_name), 
	CONSTRAINT fk_user_policy_user_name FOREIGN KEY(user_name) REFERENCES user (name)
);
CREATE TABLE user_tag (
	user_name TEXT NOT NULL, 
	tag_key TEXT NOT NULL, 
	tag_value TEXT NOT NULL, 
	CONSTRAINT pk_user_tag PRIMARY KEY (user_name, tag_key), 
	CONSTRAINT fk_user_tag_user_name FOREIGN KEY(user_name) REFERENCES user (name)
);
CREATE TABLE wrapping_key (
	token_id TEXT NOT NULL, 
	cka_id BLOB NOT NULL, 
	key_id TEXT NOT NULL, 
	region TEXT NOT NULL, 
	valid_to INTEGER NOT NULL, 
	used_at INTEGER, 
	CONSTRAINT pk_wrapping_key PRIMARY KEY (token_id, cka_id), 
	CONSTRAINT fk_wrapping_key_token_id FOREIGN KEY(token_id, cka_id) REFERENCES token_object (token_id, cka_id), 
	CONSTRAINT fk_wrapping_key_key_id FOREIGN KEY(key_id, region) REFERENCES regional_key (key_id, region)
);
CREATE INDEX ix_regional_key_region ON regional_key (region, key_id);
CREATE INDEX ix_token_object_material ON token_object (material);
CREATE INDEX ix_alias_key_id ON alias (key_id, region);
CREATE INDEX ix_wrapping_key_key_id ON wrapping_key (key_id, region);
CREATE INDEX ix_access_key_user_name ON access_key (user_name);
CREATE INDEX ix_group_member_user_name ON group_member (user_name);
CREATE INDEX ix_key_grant_key_id ON key_grant (key_id, region, grantee);
CREATE INDEX ix_key_grant_retiring ON key_grant (retiring, region);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('change_log',17);
COMMIT;
