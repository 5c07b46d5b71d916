BEGIN TRANSACTION;
CREATE TABLE access_key_use (
	access_key_id TEXT NOT NULL, 
	region TEXT NOT NULL, 
	used_at INTEGER NOT NULL, 
	CONSTRAINT pk_access_key_use PRIMARY KEY (access_key_id)
);
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('log_0003');
CREATE TABLE encryption_count (
	material_id TEXT NOT NULL, 
	reserved INTEGER NOT NULL, 
	CONSTRAINT pk_encryption_count PRIMARY KEY (material_id), 
	CONSTRAINT ck_encryption_count_reserved CHECK (reserved >= 0)
);
INSERT INTO "encryption_count" VALUES('fa27f506ccdd178793d3902f0e8bfc4f7da591b5ae2c223ab2a503bcdfe39388',1);
INSERT INTO "encryption_count" VALUES('9fd082edb2ddc81deae380ab5d639937a1a0a0da962471e5bb2b1bf3647ee428',1);
INSERT INTO "encryption_count" VALUES('a4a717d09b7c425c1504580f3ae95eab0d104a59a42b1054357d0cbfe3c43262',1);
CREATE TABLE last_use (
	key_id TEXT NOT NULL, 
	region TEXT NOT NULL, 
	operation TEXT NOT NULL, 
	used_at INTEGER NOT NULL, 
	request_id TEXT NOT NULL, 
	CONSTRAINT pk_last_use PRIMARY KEY (key_id, region), 
	CONSTRAINT ck_last_use_operation CHECK (operation IN ('Decrypt', 'DeriveSharedSecret', 'Encrypt', 'GenerateDataKey', 'GenerateDataKeyPair', 'GenerateDataKeyPairWithoutPlaintext', 'GenerateDataKeyWithoutPlaintext', 'GenerateMac', 'ReEncrypt', 'Sign', 'Verify', 'VerifyMac', 'Encapsulate', 'Decapsulate'))
);
INSERT INTO "last_use" VALUES('73e5df73-9826-4a81-9359-cf864ed9dfb2','eu-central-1','Encrypt',1795686450745446,'7eb63015-e281-41cb-a97a-d2d360a3425e');
INSERT INTO "last_use" VALUES('2640370e-09ac-421f-a2f9-7cb641b2e033','eu-central-1','Encrypt',1795686461481191,'88cd6bed-f51e-45bf-a788-6f0e02cf138d');
CREATE TABLE sweeper (
	only INTEGER NOT NULL, 
	holder TEXT NOT NULL, 
	until INTEGER NOT NULL, 
	CONSTRAINT pk_sweeper PRIMARY KEY (only), 
	CONSTRAINT ck_sweeper_only CHECK (only = 1)
);
CREATE TABLE use_tracking (
	only INTEGER NOT NULL, 
	since INTEGER NOT NULL, 
	CONSTRAINT pk_use_tracking PRIMARY KEY (only), 
	CONSTRAINT ck_use_tracking_only CHECK (only = 1)
);
INSERT INTO "use_tracking" VALUES(1,1795686445117678);
COMMIT;
