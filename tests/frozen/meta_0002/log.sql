BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('log_0002');
CREATE TABLE encryption_count (
	material_id TEXT NOT NULL, 
	reserved INTEGER NOT NULL, 
	CONSTRAINT pk_encryption_count PRIMARY KEY (material_id), 
	CONSTRAINT ck_encryption_count_reserved CHECK (reserved >= 0)
);
INSERT INTO "encryption_count" VALUES('2f6ddaa1021561c9069a008a82edc68649c0d4b7c00941917c31efb5904ef8fb',1);
INSERT INTO "encryption_count" VALUES('0bca93d3e3b7bb1c60c1524424179a4d2fa148ae0667b288c9b72c4a5cfca588',1);
CREATE TABLE last_use (
	key_id TEXT NOT NULL, 
	region TEXT NOT NULL, 
	operation TEXT NOT NULL, 
	used_at INTEGER NOT NULL, 
	request_id TEXT NOT NULL, 
	CONSTRAINT pk_last_use PRIMARY KEY (key_id, region), 
	CONSTRAINT ck_last_use_operation CHECK (operation IN ('Decrypt', 'DeriveSharedSecret', 'Encrypt', 'GenerateDataKey', 'GenerateDataKeyPair', 'GenerateDataKeyPairWithoutPlaintext', 'GenerateDataKeyWithoutPlaintext', 'GenerateMac', 'ReEncrypt', 'Sign', 'Verify', 'VerifyMac', 'Encapsulate', 'Decapsulate'))
);
INSERT INTO "last_use" VALUES('6ddfed40-d706-4c7f-8142-e21e8b692942','eu-central-1','Encrypt',1795686525052673,'336ead10-bee8-42e5-8c48-5969df48f09c');
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
INSERT INTO "use_tracking" VALUES(1,1795686522522214);
COMMIT;
